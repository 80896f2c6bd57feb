"""A bucket of its own for each test, on the real S3 server, and a Secret mounted as the kubelet would."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from devcluster import S3Server
from finetune_api import names
from finetune_api.layout import RunLayout
from finetune_api.spec import OutputStore, SecretRef, Store
from finetune_trainer.storage import ObjectStore
from tests.builders.model_folders import write_model_folder
from tests.builders.packages import kept_packages
from tests.builders.tiny_models import write_model
from tests.builders.training_runs import BUCKET, make_messages
from tests.integration.trainer.workbench import ROWS, Workbench
from tests.stand_ins.s3_proxy import S3Proxy


@pytest.fixture(autouse=True)
def packages_of_other_tests() -> Iterator[None]:
    """Some tests run a stage's main() in this process."""
    with kept_packages():
        yield


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
def store_settings(s3_server: S3Server, s3_secret: str) -> OutputStore:
    """The server as a job names it."""
    return OutputStore(
        endpoint=s3_server.endpoint, region=s3_server.region, credentials_secret_ref=SecretRef(name=s3_secret)
    )


@pytest.fixture
def store(store_settings: Store) -> ObjectStore:
    """A client of the server that gives up soon."""
    return ObjectStore.open(store_settings, max_attempts=2)


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[S3Proxy]:
    """A proxy before the server that goes wrong as it is told."""
    with S3Proxy(s3_server.endpoint) as proxy:
        yield proxy


@pytest.fixture
def proxied(proxy: S3Proxy, store_settings: Store) -> ObjectStore:
    """A client of the server through the proxy, as quick to give up as `store`."""
    return ObjectStore.open(store_settings.model_copy(update={"endpoint": proxy.url}), max_attempts=2)


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


@pytest.fixture
def bench(
    s3_server: S3Server, bucket: str, store_settings: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Workbench:
    """A bucket that holds what a job needs."""
    monkeypatch.setenv(names.ENV_WORK_DIRECTORY, str(tmp_path / "work"))
    bench = Workbench(s3_server.data / bucket, bucket, store_settings)
    write_model_folder(bench.model)
    bench.write_rows(ROWS)
    return bench


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base model in several shards."""
    return write_model(tmp_path_factory.mktemp("base"), "qwen3", shard_size="100KB")


@pytest.fixture(scope="module")
def server(s3_server: S3Server, base_model: Path) -> Iterator[S3Server]:
    """A server with the base model and rows of TrainingRun in it, and its keys in the environment."""
    patch = pytest.MonkeyPatch()
    patch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key.identifier)
    patch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.access_key.secret)
    (s3_server.data / BUCKET).mkdir(exist_ok=True)
    store = ObjectStore.open(Store(endpoint=s3_server.endpoint))
    if not store.exists(f"s3://{BUCKET}/rows.jsonl"):
        store.upload_files({f"s3://{BUCKET}/base/{path.name}": path for path in base_model.iterdir()})
        rows = "".join(json.dumps(row) + "\n" for row in make_messages(60))
        store.write_bytes(f"s3://{BUCKET}/rows.jsonl", rows.encode())
    yield s3_server
    patch.undo()
