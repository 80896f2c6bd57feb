"""Whose keys are tried, in which order, and how the store is reached."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from finetune_api.spec import Addressing, CABundleRef, SecretRef, Store
from finetune_cli.errors import CommandError
from finetune_cli.storage import Credentials, ModelStore, find_credentials
from tests.builders.self_signed import CERTIFICATE_NAME, https_server

SECRET = {"AWS_ACCESS_KEY_ID": "from-secret", "AWS_SECRET_ACCESS_KEY": "s"}
STORE = Store(endpoint="http://127.0.0.1:9", credentials_secret_ref=SecretRef(name="s3-credentials"))


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Also where `.devcluster/env` was sourced, which names an endpoint.
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def find(store: Store = STORE, secret: Mapping[str, str] | None = SECRET) -> list[Credentials]:
    return list(find_credentials(store, "ml", lambda name, namespace: secret))


def access_key(credentials: Credentials) -> str | None:
    found = credentials.session.get_credentials()
    return found.access_key if found else None


def test_the_environment_comes_before_the_jobs_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "from-environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    found = find()
    assert [access_key(each) for each in found] == ["from-environment", "from-secret"]
    assert found[1].origin == "Secret 's3-credentials' in namespace 'ml'"


def test_a_profile_counts_as_the_users_own_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "credentials").write_text("[lab]\naws_access_key_id=from-profile\naws_secret_access_key=s\n")
    monkeypatch.setenv("AWS_PROFILE", "lab")
    assert [access_key(each) for each in find(secret=None)] == ["from-profile"]


def test_a_profile_that_does_not_exist_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "gone")
    with pytest.raises(CommandError, match="gone"):
        find()


def test_without_own_keys_the_secret_is_all_there_is() -> None:
    assert [access_key(each) for each in find()] == ["from-secret"]


def test_a_secret_that_may_not_be_read_gives_nothing() -> None:
    assert find(secret=None) == []


def test_a_job_with_workload_identity_falls_back_on_the_machines() -> None:
    assert [each.origin for each in find(Store())] == ["the AWS identity of this machine"]


def test_a_secret_without_the_keys_is_named() -> None:
    with pytest.raises(
        CommandError, match="Secret 's3-credentials' in namespace 'ml' has no AWS_SECRET_ACCESS_KEY"
    ):
        find(secret={"AWS_ACCESS_KEY_ID": "a"})


def test_an_authority_that_is_unknown_here_can_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with https_server(tmp_path, b"hello") as endpoint:
        bundle = CABundleRef(name="own-authority")
        store = STORE.model_copy(update={"endpoint": endpoint, "ca_bundle_ref": bundle})
        (credentials,) = find(store)
        with pytest.raises(
            CommandError, match=r"Set AWS_CA_BUNDLE .* ConfigMap 'own-authority' of the job has"
        ):
            ModelStore(store, credentials, endpoint=None, connections=1).read_bytes("s3://models/key")
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / CERTIFICATE_NAME))
        (again,) = find(store)
        opened = ModelStore(store, again, endpoint=None, connections=1)
        assert opened.read_bytes("s3://models/key") == b"hello"


@pytest.mark.parametrize(
    ("store", "endpoint", "url"),
    [
        (Store(endpoint="http://a.example"), None, "http://a.example/bucket/k"),
        (Store(endpoint="http://a.example"), "http://c.example", "http://c.example/bucket/k"),
        (
            Store(endpoint="http://a.example", addressing=Addressing.VIRTUAL_HOST),
            None,
            "http://bucket.a.example/k",
        ),
        (Store(region="eu-west-1"), None, "https://bucket.s3.eu-west-1.amazonaws.com/k"),
    ],
    ids=["the job's endpoint", "an endpoint given by the user", "virtual hosts", "AWS itself"],
)
def test_the_request_goes_to(store: Store, endpoint: str | None, url: str) -> None:
    (credentials,) = find(store.model_copy(update={"credentials_secret_ref": SecretRef(name="s")}))
    opened = ModelStore(store, credentials, endpoint=endpoint, connections=2)
    presigned = opened._client.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "k"})
    assert presigned.partition("?")[0] == url
