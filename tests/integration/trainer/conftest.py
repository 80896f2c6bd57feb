"""A bucket of its own for each test, on the real S3 server, and a Secret mounted as the kubelet would."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from devcluster import S3Server
from finetune_api import names
from finetune_api.layout import RunLayout
from finetune_api.spec import SecretRef, Store
from finetune_trainer.storage import ObjectStore

_NUMBERS = itertools.count()
SECRET_NAME = "s3-credentials"


def mount_secret(root: Path, secret_name: str, **keys: str) -> Path:
    """Write a Secret's files below the configuration folder `root`."""
    folder = root / "credentials" / secret_name
    folder.mkdir(parents=True, exist_ok=True)
    for key, value in keys.items():
        (folder / key).write_text(value)
    return folder


@pytest.fixture
def config_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for /etc/finetune."""
    directory = tmp_path / "etc-finetune"
    monkeypatch.setattr(names, "CONFIG_DIRECTORY", str(directory))
    return directory


@pytest.fixture
def s3_secret(s3_server: S3Server, config_directory: Path) -> str:
    """The name of a mounted Secret with the server's keys."""
    key = s3_server.access_key
    mount_secret(
        config_directory, SECRET_NAME, AWS_ACCESS_KEY_ID=key.identifier, AWS_SECRET_ACCESS_KEY=key.secret
    )
    return SECRET_NAME


@pytest.fixture
def store_settings(s3_server: S3Server, s3_secret: str) -> Store:
    """The server as a job names it."""
    return Store(
        endpoint=s3_server.endpoint, region=s3_server.region, credentials_secret_ref=SecretRef(name=s3_secret)
    )


@pytest.fixture
def store(store_settings: Store) -> ObjectStore:
    """A client of the server that gives up soon."""
    return ObjectStore.open(store_settings, max_attempts=2)


@pytest.fixture
def bucket(s3_server: S3Server) -> Iterator[str]:
    """An empty bucket; the server keeps one folder a bucket."""
    name = f"bucket-{next(_NUMBERS)}"
    (s3_server.data / name).mkdir()
    yield name


@pytest.fixture
def layout(bucket: str) -> RunLayout:
    """A run in that bucket."""
    return RunLayout(output_uri=f"s3://{bucket}/support-bot", name="support-bot", uid="0123456789abcdef")
