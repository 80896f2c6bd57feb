"""ObjectStore on a real S3 server: what it reads and writes, and what its errors say."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from devcluster import S3Server
from finetune_api.spec import Addressing, CABundleRef, Checksums, SecretRef, Store
from finetune_trainer.errors import ObjectMissing, StorageDenied, StorageUnavailable, UserError
from finetune_trainer.storage import ObjectStore
from finetune_trainer.storage.client import open_client
from tests.builders.self_signed import https_server
from tests.integration.trainer.conftest import SECRET_NAME, mount_secret

MIB = 1024 * 1024


def test_bytes_come_back_as_they_were_written(store: ObjectStore, bucket: str) -> None:
    uri = f"s3://{bucket}/a/b.bin"
    assert store.write_bytes(uri, b"hello world")
    assert store.read_bytes(uri) == b"hello world"
    assert store.read_range(uri, 6, 5) == b"world"
    assert store.exists(uri)
    assert not store.exists(uri + ".not")


def test_a_conditional_write_succeeds_once(store: ObjectStore, bucket: str) -> None:
    uri = f"s3://{bucket}/claim"
    assert store.write_bytes(uri, b"mine", only_if_absent=True)
    assert not store.write_bytes(uri, b"other", only_if_absent=True)
    assert store.read_bytes(uri) == b"mine"


def test_a_conditional_write_repeated_after_a_lost_answer_is_still_a_success(
    store: ObjectStore, bucket: str
) -> None:
    uri = f"s3://{bucket}/claim"
    store.write_bytes(uri, b"mine", only_if_absent=True)
    assert store.write_bytes(uri, b"mine", only_if_absent=True)


def test_of_sixteen_conditional_writes_at_once_one_wins(store: ObjectStore, bucket: str) -> None:
    uri = f"s3://{bucket}/claim"
    with ThreadPoolExecutor(16) as pool:
        won = list(
            pool.map(lambda n: store.write_bytes(uri, f"writer {n}".encode(), only_if_absent=True), range(16))
        )
    assert won.count(True) == 1


def test_listing_is_sorted_recursive_and_relative_to_the_folder(store: ObjectStore, bucket: str) -> None:
    for name in ("b.txt", "a/1.txt", "a/2.txt"):
        store.write_bytes(f"s3://{bucket}/folder/{name}", name.encode())
    store.write_bytes(f"s3://{bucket}/folder-beside/c.txt", b"c")
    found = store.list_objects(f"s3://{bucket}/folder")
    assert [info.name for info in found] == ["a/1.txt", "a/2.txt", "b.txt"]
    assert found[0].uri == f"s3://{bucket}/folder/a/1.txt"
    assert [info.size_bytes for info in found] == [7, 7, 5]
    assert all(info.etag for info in found)


def test_listing_goes_on_behind_the_first_thousand(
    store: ObjectStore, bucket: str, s3_server: S3Server
) -> None:
    folder = s3_server.data / bucket / "many"
    folder.mkdir()
    for number in range(1005):
        (folder / f"{number:04d}").touch()
    assert len(store.list_objects(f"s3://{bucket}/many")) == 1005
    store.delete_folder(f"s3://{bucket}/many")
    assert store.list_objects(f"s3://{bucket}/many") == []


def test_large_files_travel_in_parts_and_stay_the_same(
    store: ObjectStore, bucket: str, tmp_path: Path
) -> None:
    path = tmp_path / "large.bin"
    path.write_bytes(os.urandom(40 * MIB))
    store.upload_file(path, f"s3://{bucket}/large.bin")
    store.download_file(f"s3://{bucket}/large.bin", tmp_path / "sub" / "back.bin")
    assert _digest(tmp_path / "sub" / "back.bin") == _digest(path)


def test_a_folder_comes_down_with_its_structure(store: ObjectStore, bucket: str, tmp_path: Path) -> None:
    for name in ("x.json", "sub/y.json", "z.bin"):
        store.write_bytes(f"s3://{bucket}/m/{name}", name.encode())
    store.download_folder(f"s3://{bucket}/m", tmp_path, names=["x.json", "sub/y.json"])
    assert (tmp_path / "sub/y.json").read_bytes() == b"sub/y.json"
    assert not (tmp_path / "z.bin").exists()


def test_a_missing_object_names_bucket_key_and_next_action(
    store: ObjectStore, bucket: str, tmp_path: Path
) -> None:
    uri = f"s3://{bucket}/nothing.json"
    with pytest.raises(ObjectMissing, match=rf"{uri} does not exist at http.*Put the object there"):
        store.read_bytes(uri)
    with pytest.raises(ObjectMissing, match=uri):
        store.download_file(uri, tmp_path / "x")
    assert list(tmp_path.glob("x*")) == []


@pytest.mark.parametrize("action", ["read", "write", "list", "upload"])
def test_a_missing_bucket_is_named_whatever_is_done(store: ObjectStore, tmp_path: Path, action: str) -> None:
    (tmp_path / "f").write_bytes(b"f")
    uri = "s3://no-such-bucket/key"
    actions: dict[str, Callable[[], object]] = {
        "read": lambda: store.read_bytes(uri),
        "write": lambda: store.write_bytes(uri, b""),
        "list": lambda: store.list_objects(uri),
        "upload": lambda: store.upload_file(tmp_path / "f", uri),
    }
    with pytest.raises(
        ObjectMissing, match=r"Bucket 'no-such-bucket' does not exist at http.*Create the bucket or"
    ):
        actions[action]()


@pytest.mark.parametrize("wrong", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_keys_name_bucket_endpoint_and_secret_but_never_the_keys(
    s3_server: S3Server, store_settings: Store, config_directory: Path, bucket: str, wrong: str
) -> None:
    mount_secret(config_directory, SECRET_NAME, **{wrong: "CANARYWRONGVALUE"})
    store = ObjectStore.open(store_settings, max_attempts=2)
    with pytest.raises(StorageDenied) as caught:
        store.read_bytes(f"s3://{bucket}/key")
    assert f"Bucket '{bucket}' at {s3_server.endpoint}" in caught.value.message
    assert f"Secret '{SECRET_NAME}'" in caught.value.message
    assert "CANARY" not in caught.value.message
    assert s3_server.access_key.secret not in caught.value.message


def test_rotated_keys_are_used_without_a_new_client(
    s3_server: S3Server, store_settings: Store, config_directory: Path, bucket: str
) -> None:
    mount_secret(config_directory, SECRET_NAME, AWS_SECRET_ACCESS_KEY="outdated")
    store = ObjectStore.open(store_settings, max_attempts=2)
    with pytest.raises(StorageDenied):
        store.write_bytes(f"s3://{bucket}/key", b"1")
    mount_secret(config_directory, SECRET_NAME, AWS_SECRET_ACCESS_KEY=s3_server.access_key.secret)
    assert store.write_bytes(f"s3://{bucket}/key", b"1")


def test_the_secret_wins_over_the_environment(
    store_settings: Store, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "other")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "other")
    assert ObjectStore.open(store_settings).write_bytes(f"s3://{bucket}/key", b"1")


def test_without_a_secret_the_environment_gives_the_keys(
    s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key.identifier)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.access_key.secret)
    store = ObjectStore.open(Store(endpoint=s3_server.endpoint))
    assert store.write_bytes(f"s3://{bucket}/key", b"1")


def test_a_certificate_bundle_in_the_environment_does_not_disturb_plain_http(
    store_settings: Store, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", "/nowhere/ca.pem")
    assert ObjectStore.open(store_settings).write_bytes(f"s3://{bucket}/key", b"1")


@pytest.mark.parametrize("size", [1 * MIB, 40 * MIB])
@pytest.mark.parametrize(("checksums", "is_sent"), [("WhenSupported", True), ("WhenRequired", False)])
def test_what_is_uploaded_carries_a_checksum_that_the_store_compares(
    store_settings: Store, bucket: str, tmp_path: Path, checksums: str, is_sent: bool, size: int
) -> None:
    settings = store_settings.model_copy(update={"checksums": Checksums(checksums)})
    (tmp_path / "file").write_bytes(bytes(size))

    ObjectStore.open(settings).upload_file(tmp_path / "file", f"s3://{bucket}/file")

    head = open_client(settings, max_attempts=1).head_object(
        Bucket=bucket, Key="file", ChecksumMode="ENABLED"
    )
    assert ("ChecksumCRC32C" in head) is is_sent


@pytest.mark.parametrize("checksums", list(Checksums))
@pytest.mark.parametrize("addressing", [Addressing.AUTO, Addressing.PATH])
def test_every_setting_of_checksums_and_addressing_works(
    store_settings: Store, bucket: str, checksums: Checksums, addressing: Addressing
) -> None:
    store = ObjectStore.open(
        store_settings.model_copy(update={"checksums": checksums, "addressing": addressing})
    )
    store.write_bytes(f"s3://{bucket}/key", b"1")
    assert store.read_bytes(f"s3://{bucket}/key") == b"1"


def test_virtual_host_addressing_puts_the_bucket_into_the_host_name(store_settings: Store) -> None:
    settings = store_settings.model_copy(
        update={"addressing": Addressing.VIRTUAL_HOST, "endpoint": "http://s3.invalid:1"}
    )
    with pytest.raises(StorageUnavailable, match=r"http://models\.s3\.invalid:1"):
        ObjectStore.open(settings, max_attempts=1).read_bytes("s3://models/key")


def test_a_store_that_does_not_answer_is_unavailable(store_settings: Store) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
    store = ObjectStore.open(store_settings.model_copy(update={"endpoint": endpoint}), max_attempts=1)
    with pytest.raises(
        StorageUnavailable, match=rf"Could not read s3://models/key: {endpoint} does not answer"
    ):
        store.read_bytes("s3://models/key")


def test_a_store_in_trouble_is_asked_again_and_then_unavailable(store_settings: Store) -> None:
    with _FailingServer(status=503) as server:
        settings = store_settings.model_copy(update={"endpoint": server.endpoint})
        with pytest.raises(StorageUnavailable, match="503"):
            ObjectStore.open(settings, max_attempts=2).read_bytes("s3://models/key")
        assert server.requests == 2


def test_a_secret_without_a_key_names_secret_and_key(s3_server: S3Server, config_directory: Path) -> None:
    mount_secret(config_directory, "half", AWS_ACCESS_KEY_ID="id", AWS_SECRET_ACCESS_KEY="")
    settings = Store(endpoint=s3_server.endpoint, credentials_secret_ref=SecretRef(name="half"))
    with pytest.raises(UserError, match=r"Key AWS_SECRET_ACCESS_KEY of Secret 'half' is empty"):
        ObjectStore.open(settings)
    (config_directory / "credentials/half/AWS_SECRET_ACCESS_KEY").unlink()
    with pytest.raises(
        UserError, match=r"Key AWS_SECRET_ACCESS_KEY of Secret 'half' is missing.*add the key"
    ):
        ObjectStore.open(settings)


def test_a_secret_that_is_not_mounted_is_named(s3_server: S3Server, config_directory: Path) -> None:
    settings = Store(endpoint=s3_server.endpoint, credentials_secret_ref=SecretRef(name="absent"))
    with pytest.raises(UserError, match=r"Secret 'absent' is not mounted.*Create it"):
        ObjectStore.open(settings)


def test_a_store_with_an_authority_of_its_own_is_trusted_by_the_jobs_bundle(
    s3_secret: str, config_directory: Path
) -> None:
    mounted = config_directory / "ca-bundles" / "own-authority"
    mounted.mkdir(parents=True)
    with https_server(mounted, b"hello") as endpoint:
        settings = Store(endpoint=endpoint, credentials_secret_ref=SecretRef(name=s3_secret))
        with pytest.raises(UserError, match=r"is not trusted.*name it in store\.caBundleRef"):
            ObjectStore.open(settings, max_attempts=1).read_bytes("s3://models/key")
        trusting = settings.model_copy(update={"ca_bundle_ref": CABundleRef(name="own-authority")})
        assert ObjectStore.open(trusting).read_bytes("s3://models/key") == b"hello"
        other_key = CABundleRef(name="own-authority", key="bundle.pem")
        with pytest.raises(UserError, match=r"ConfigMap 'own-authority' with key bundle\.pem is not mounted"):
            ObjectStore.open(settings.model_copy(update={"ca_bundle_ref": other_key}))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class _FailingServer:
    """An HTTP server whose every answer is one status."""

    def __init__(self, status: int) -> None:
        outer = self
        self.requests = 0

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests += 1
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> _FailingServer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
