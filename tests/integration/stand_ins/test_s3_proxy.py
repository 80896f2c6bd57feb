"""The S3 proxy before the real S3 server: what passes unharmed, and that everything goes wrong as it was told."""

from __future__ import annotations

import itertools
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    EndpointConnectionError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from devcluster import S3Server
from finetune_api.spec import Store
from finetune_trainer.storage import ObjectStore
from tests.stand_ins.s3_proxy import S3Proxy, requests

ROOT = Path(__file__).parents[3]
MIB = 1024 * 1024
_NUMBERS = itertools.count()


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[S3Proxy]:
    with S3Proxy(s3_server.endpoint) as proxy:
        yield proxy


@pytest.fixture
def bucket(s3_server: S3Server) -> str:
    name = f"proxied-{next(_NUMBERS)}"
    (s3_server.data / name).mkdir()
    return name


@pytest.fixture
def store(s3_server: S3Server, proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """The trainer's client, through the proxy; it tries again three times."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key.identifier)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.access_key.secret)
    return ObjectStore.open(Store(endpoint=proxy.url, region=s3_server.region), max_attempts=4)


@pytest.fixture
def client(s3_server: S3Server, proxy: S3Proxy) -> Any:
    """A client through the proxy that tries once, so that each failure shows."""
    return make_client(s3_server, proxy.url)


def make_client(server: S3Server, url: str, *, read_timeout_seconds: float = 20) -> Any:
    config = Config(
        s3={"addressing_style": "path"},
        retries={"total_max_attempts": 1},
        read_timeout=read_timeout_seconds,
        max_pool_connections=16,
    )
    return boto3.client(
        "s3",
        endpoint_url=url,
        region_name=server.region,
        aws_access_key_id=server.access_key.identifier,
        aws_secret_access_key=server.access_key.secret,
        config=config,
    )


def outcome(client: Any, bucket: str, key: str) -> str:
    """What became of a small write."""
    try:
        client.put_object(Bucket=bucket, Key=key, Body=b"content")
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    except BotoCoreError as error:
        return type(error).__name__
    return "written"


# --- passing on ------------------------------------------------------------------------------------------------


def test_a_large_file_passes_in_parts_and_comes_back_unharmed(
    store: ObjectStore, proxy: S3Proxy, s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    content = random.Random(7).randbytes(40 * MIB)
    (tmp_path / "up").write_bytes(content)

    store.upload_file(tmp_path / "up", f"s3://{bucket}/folder/large file.bin")
    store.download_file(f"s3://{bucket}/folder/large file.bin", tmp_path / "down")

    assert (s3_server.data / bucket / "folder/large file.bin").read_bytes() == content
    assert (tmp_path / "down").read_bytes() == content
    assert proxy.count("PUT", "/folder/large file.bin$") == 3
    parts = [each for each in proxy.seen if "partNumber" in each.query]
    assert sorted(each.query["partNumber"] for each in parts) == ["1", "2", "3"]
    assert sum(each.request_bytes for each in parts) == len(content)
    downloads = [each for each in proxy.seen if each.method == "GET"]
    assert sum(each.response_bytes for each in downloads) == len(content)
    assert {each.status for each in proxy.seen} <= {200, 206}


def test_everything_a_store_does_passes(store: ObjectStore, proxy: S3Proxy, bucket: str) -> None:
    uri = f"s3://{bucket}/a b+ü/claim"

    assert store.write_bytes(uri, b"mine", only_if_absent=True)
    assert not store.write_bytes(uri, b"other", only_if_absent=True)
    version = store.read_version(uri)
    assert version is not None
    assert store.replace_bytes(uri, b"", etag=version[1])
    assert store.read_bytes(uri) == b""
    assert store.exists(uri)
    assert not store.exists(uri + "-not")
    assert [info.name for info in store.list_objects(f"s3://{bucket}/a b+ü")] == ["claim"]
    assert store.delete_folder(f"s3://{bucket}") >= 1

    assert [each.status for each in proxy.seen if each.method == "PUT"] == [200, 412, 200]
    assert [each.status for each in proxy.seen if each.method == "HEAD"] == [200, 404]
    assert proxy.count("PUT", "^/" + re.escape(f"{bucket}/a b+ü/claim") + "$") == 3


def test_many_callers_at_once_have_their_own_answers(client: Any, bucket: str, proxy: S3Proxy) -> None:
    def write_and_read(number: int) -> bool:
        content = random.Random(number).randbytes(300_000)
        client.put_object(Bucket=bucket, Key=f"{number}", Body=content)
        return bool(client.get_object(Bucket=bucket, Key=f"{number}")["Body"].read() == content)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(write_and_read, range(40)))


# --- faults ----------------------------------------------------------------------------------------------------


def test_an_answer_is_given_as_often_as_told_and_to_whom_it_was_told(
    client: Any, bucket: str, proxy: S3Proxy, s3_server: S3Server
) -> None:
    fault = proxy.answer(
        503, code="SlowDown", to=requests("PUT", "/checkpoints/"), times=2, retry_after_seconds=3
    )

    with pytest.raises(ClientError) as refusal:
        client.put_object(Bucket=bucket, Key="checkpoints/1", Body=b"content")
    assert refusal.value.response["Error"]["Code"] == "SlowDown"
    assert refusal.value.response["ResponseMetadata"]["HTTPHeaders"]["retry-after"] == "3"
    assert outcome(client, bucket, "elsewhere") == "written"
    assert not (s3_server.data / bucket / "checkpoints").exists()
    assert outcome(client, bucket, "checkpoints/1") == "SlowDown"
    assert outcome(client, bucket, "checkpoints/1") == "written"

    assert fault.happened == 2
    assert [each.status for each in proxy.seen] == [503, 200, 503, 200]


def test_a_store_outlasts_faults_by_trying_again(store: ObjectStore, bucket: str, proxy: S3Proxy) -> None:
    proxy.answer(503, code="SlowDown", to=requests("PUT"))
    proxy.reset(to=requests("PUT"))

    assert store.write_bytes(f"s3://{bucket}/object", b"content")

    assert [each.status for each in proxy.seen] == [503, 0, 200]


def test_head_is_refused_without_a_body(client: Any, bucket: str, proxy: S3Proxy) -> None:
    proxy.answer(403, code="AccessDenied", to=requests("HEAD"))

    for expected in ("403", "404"):
        with pytest.raises(ClientError) as refusal:
            client.head_object(Bucket=bucket, Key="object")
        assert refusal.value.response["Error"]["Code"] == expected


def test_a_reset_comes_before_the_server_has_the_request(
    client: Any, bucket: str, proxy: S3Proxy, s3_server: S3Server
) -> None:
    fault = proxy.reset(to=requests("PUT"))

    assert outcome(client, bucket, "object") == ConnectionClosedError.__name__

    assert not (s3_server.data / bucket / "object").exists()
    assert (fault.happened, proxy.seen[0].status) == (1, 0)


def test_a_lost_answer_leaves_the_object_there(
    client: Any, bucket: str, proxy: S3Proxy, s3_server: S3Server
) -> None:
    fault = proxy.reset(to=requests("PUT"), carried_out=True)

    assert outcome(client, bucket, "object") == ConnectionClosedError.__name__

    assert (s3_server.data / bucket / "object").read_bytes() == b"content"
    assert (fault.happened, proxy.seen[0].status) == (1, 0)


def test_a_conditional_write_survives_the_loss_of_its_answer(
    store: ObjectStore, bucket: str, proxy: S3Proxy
) -> None:
    proxy.reset(to=requests("PUT"), carried_out=True)

    assert store.write_bytes(f"s3://{bucket}/claim", b"mine", only_if_absent=True)

    assert [each.status for each in proxy.seen] == [0, 412, 200]


def test_a_delay_delays_and_lets_other_faults_happen(client: Any, bucket: str, proxy: S3Proxy) -> None:
    delay = proxy.delay(0.4, to=requests("PUT"))
    proxy.answer(500, code="InternalError", to=requests())

    started = time.monotonic()
    assert outcome(client, bucket, "object") == "InternalError"
    assert outcome(client, bucket, "object") == "written"

    assert time.monotonic() - started >= 0.8
    assert delay.happened == 2
    delay.stop()
    started = time.monotonic()
    assert outcome(client, bucket, "object") == "written"
    assert time.monotonic() - started < 0.4


def test_a_request_hangs_until_its_caller_gives_up(bucket: str, proxy: S3Proxy, s3_server: S3Server) -> None:
    client = make_client(s3_server, proxy.url, read_timeout_seconds=0.3)
    fault = proxy.hang(to=requests("PUT"))

    assert outcome(client, bucket, "object") == ReadTimeoutError.__name__

    assert not (s3_server.data / bucket / "object").exists()
    assert fault.happened == 1
    proxy.heal()
    assert outcome(client, bucket, "object") == "written"


def test_a_body_is_cut_after_so_many_bytes(client: Any, bucket: str, proxy: S3Proxy) -> None:
    content = random.Random(3).randbytes(MIB)
    client.put_object(Bucket=bucket, Key="object", Body=content)
    proxy.truncate(100_000, to=requests("GET", "/object"))

    body = client.get_object(Bucket=bucket, Key="object")["Body"]
    with pytest.raises((ResponseStreamingError, IncompleteReadError)):
        body.read()

    assert proxy.seen[-1].response_bytes == 100_000
    assert client.get_object(Bucket=bucket, Key="object")["Body"].read() == content


def test_a_writer_is_frozen_between_two_requests(
    client: Any, bucket: str, proxy: S3Proxy, s3_server: S3Server
) -> None:
    pause = proxy.pause(to=requests("PUT", "/manifest"))

    def write() -> None:
        client.put_object(Bucket=bucket, Key="weights", Body=b"weights")
        client.put_object(Bucket=bucket, Key="manifest", Body=b"of the frozen writer")

    writer = threading.Thread(target=write)
    writer.start()
    pause.reached(within_seconds=10)
    assert (s3_server.data / bucket / "weights").exists()
    assert not (s3_server.data / bucket / "manifest").exists()
    client.put_object(Bucket=bucket, Key="manifest", Body=b"of another writer")
    pause.release()
    writer.join(timeout=10)

    assert (s3_server.data / bucket / "manifest").read_bytes() == b"of the frozen writer"
    assert pause.happened == 1


def test_a_pause_that_nobody_reaches_says_so(proxy: S3Proxy) -> None:
    with pytest.raises(TimeoutError, match=r"no request came to the pause in 0\.01 s"):
        proxy.pause(to=requests("PUT")).reached(within_seconds=0.01)


# --- the link --------------------------------------------------------------------------------------------------


def test_uploads_share_one_bandwidth(client: Any, bucket: str, proxy: S3Proxy) -> None:
    proxy.limit(4 * MIB)

    def write(number: int) -> None:
        client.put_object(Bucket=bucket, Key=f"{number}", Body=bytes(MIB))

    started = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(6)))
    seconds = time.monotonic() - started

    assert 1.5 * 0.8 < seconds < 1.5 * 1.2
    started = time.monotonic()
    for number in range(6):
        assert len(client.get_object(Bucket=bucket, Key=f"{number}")["Body"].read()) == MIB
    assert time.monotonic() - started < 1  # downloads have a limit of their own


def test_downloads_share_one_bandwidth(client: Any, bucket: str, proxy: S3Proxy) -> None:
    client.put_object(Bucket=bucket, Key="object", Body=bytes(3 * MIB))
    proxy.limit(downloads=4 * MIB)

    def read(_: int) -> int:
        return len(client.get_object(Bucket=bucket, Key="object")["Body"].read())

    started = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(read, range(2))) == [3 * MIB] * 2
    seconds = time.monotonic() - started

    assert 1.5 * 0.8 < seconds < 1.5 * 1.2
    proxy.limit()
    started = time.monotonic()
    assert read(0) + read(1) == 6 * MIB
    assert time.monotonic() - started < 1


def test_nothing_passes_in_an_outage(client: Any, bucket: str, proxy: S3Proxy) -> None:
    assert outcome(client, bucket, "object") == "written"
    pause = proxy.pause(to=requests("PUT"))
    with ThreadPoolExecutor(1) as pool:
        in_flight = pool.submit(outcome, client, bucket, "in-flight")
        pause.reached(within_seconds=10)
        proxy.outage()
        assert in_flight.result(timeout=10) == ConnectionClosedError.__name__
    assert outcome(client, bucket, "object") == EndpointConnectionError.__name__

    proxy.heal()

    assert outcome(client, bucket, "object") == "written"
    assert [each.status for each in proxy.seen] == [200, 0, 200]


def test_an_outage_ends_by_itself(client: Any, bucket: str, proxy: S3Proxy) -> None:
    fault = proxy.answer(503, code="SlowDown", to=requests())

    proxy.outage(0.5)
    started = time.monotonic()
    outcomes = [outcome(client, bucket, "object")]
    while outcomes[-1] == EndpointConnectionError.__name__ and time.monotonic() < started + 10:
        time.sleep(0.02)
        outcomes.append(outcome(client, bucket, "object"))

    assert 0.4 < time.monotonic() - started < 5
    assert outcomes[-1] == "SlowDown"  # faults outlast it
    assert fault.happened == 1


def test_the_server_may_restart_behind_the_proxy(short_tmp: Path) -> None:
    with S3Server(short_tmp / "restarts") as server, S3Proxy(server.endpoint) as proxy:
        (server.data / "bucket").mkdir()
        client = make_client(server, proxy.url)
        assert outcome(client, "bucket", "object") == "written"
        server.stop()
        assert outcome(client, "bucket", "object") == ConnectionClosedError.__name__
        server.start()
        assert outcome(client, "bucket", "object") == "written"


# --- chance ----------------------------------------------------------------------------------------------------


def _outcomes(server: S3Server, bucket: str, seed: int) -> list[str]:
    with S3Proxy(server.endpoint, seed=seed) as proxy:
        slow = proxy.answer(503, code="SlowDown", to=requests("PUT"), share=0.3)
        reset = proxy.reset(to=requests("PUT"), share=0.2)
        client = make_client(server, proxy.url)
        outcomes = [outcome(client, bucket, "object") for _ in range(60)]
        assert slow.happened == outcomes.count("SlowDown")
        assert reset.happened == outcomes.count(ConnectionClosedError.__name__)
    return outcomes


def test_a_seed_repeats_what_happens(s3_server: S3Server, bucket: str) -> None:
    first = _outcomes(s3_server, bucket, seed=1)

    assert first == _outcomes(s3_server, bucket, seed=1)
    assert first != _outcomes(s3_server, bucket, seed=2)
    assert 8 <= first.count("SlowDown") <= 28
    assert 2 <= first.count(ConnectionClosedError.__name__) <= 20


# --- a process of its own --------------------------------------------------------------------------------------


def test_it_runs_as_a_process(s3_server: S3Server, bucket: str) -> None:
    command = [sys.executable, "-m", "tests.stand_ins.s3_proxy", "--upstream", s3_server.endpoint]
    faults = ["--share-503", "0.3", "--latency-seconds", "0.01", "--bytes-per-second", "1e6", "--seed", "1"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [*command, *faults],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=ROOT,
        env=environment,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().split(" ")[0]
            client = make_client(s3_server, url)
            outcomes = {outcome(client, bucket, "object") for _ in range(30)}
        finally:
            process.send_signal(signal.SIGTERM)
        rest = process.stdout.read()

    assert outcomes == {"written", "SlowDown"}
    assert (rest, process.returncode) == ("", 0)
