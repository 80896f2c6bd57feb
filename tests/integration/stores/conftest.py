"""S3 servers of three makes, each started by the first test that names it; a bucket and an ObjectStore on one of them.

@pytest.mark.parametrize("store_server", ["versitygw", "rclone"], indirect=True)    # without: on all of them
def test_...(store_server: StoreServer, store: ObjectStore, bucket: str) -> None: ...
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_api.spec import Store
from finetune_trainer.storage import ObjectStore
from tests.stand_ins.other_stores import MotoServer, RcloneServer, StoreServer, VersitygwServer

STORES = ("versitygw", "moto", "rclone")
_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def versitygw(short_tmp: Path) -> Iterator[StoreServer]:
    """versitygw, which honours conditions and checks signatures and checksums."""
    with VersitygwServer(short_tmp / "versitygw") as server:
        yield server


@pytest.fixture(scope="session")
def moto(short_tmp: Path) -> Iterator[StoreServer]:
    """moto's server, which honours conditions and checks nothing."""
    with MotoServer(short_tmp / "moto") as server:
        yield server


@pytest.fixture(scope="session")
def rclone(short_tmp: Path) -> Iterator[StoreServer]:
    """rclone's server, which checks signatures and ignores conditions."""
    with RcloneServer(short_tmp / "rclone") as server:
        yield server


@pytest.fixture(scope="session")
def moto_https(short_tmp: Path) -> Iterator[StoreServer]:
    """moto by https: boto3 sends checksums behind the content then, and the content in chunks."""
    with MotoServer(short_tmp / "moto-https", is_secure=True) as server:
        yield server


@pytest.fixture(scope="session")
def rclone_https(short_tmp: Path) -> Iterator[StoreServer]:
    """rclone by https, which wants the length of a content and no chunks."""
    with RcloneServer(short_tmp / "rclone-https", is_secure=True) as server:
        yield server


@pytest.fixture(params=STORES)
def store_server(request: pytest.FixtureRequest) -> StoreServer:
    """One of the servers, by the name of its fixture."""
    server: StoreServer = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def store_settings(store_server: StoreServer, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The server as a job names it, with its keys in the environment."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", store_server.access_key.identifier)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", store_server.access_key.secret)
    if store_server.ca_bundle is not None:
        monkeypatch.setenv("AWS_CA_BUNDLE", str(store_server.ca_bundle))
    return Store(endpoint=store_server.endpoint, region=store_server.region)


@pytest.fixture
def store(store_settings: Store) -> ObjectStore:
    """A client of the server that gives up soon."""
    return ObjectStore.open(store_settings, max_attempts=2)


@pytest.fixture
def bucket(store_server: StoreServer) -> str:
    """A bucket in which nothing was ever done."""
    name = f"bucket-{next(_NUMBERS)}"
    store_server.make_bucket(name)
    return name
