"""The S3 server does what the operator's users expect of a store."""

import stat
import threading
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from devcluster import S3Server


def make_client(server: S3Server, secret: str | None = None) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        region_name=server.region,
        aws_access_key_id=server.access_key.identifier,
        aws_secret_access_key=secret or server.access_key.secret,
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
    )


@pytest.fixture(scope="module")
def client(s3_server: S3Server) -> Any:
    client = make_client(s3_server)
    client.create_bucket(Bucket="devcluster")
    return client


def error_code(error: pytest.ExceptionInfo[ClientError]) -> str:
    return str(error.value.response["Error"]["Code"])


def test_objects_are_kept(client: Any) -> None:
    client.put_object(Bucket="devcluster", Key="a/b", Body=b"content")
    assert client.get_object(Bucket="devcluster", Key="a/b")["Body"].read() == b"content"


def test_a_wrong_secret_is_refused(s3_server: S3Server, client: Any) -> None:
    with pytest.raises(ClientError) as refusal:
        make_client(s3_server, "wrong").list_objects_v2(Bucket="devcluster")
    assert error_code(refusal) == "SignatureDoesNotMatch"


def test_a_wrong_checksum_is_refused(client: Any) -> None:
    with pytest.raises(ClientError):
        client.put_object(Bucket="devcluster", Key="corrupt", Body=b"content", ChecksumSHA256="A" * 43 + "=")
    with pytest.raises(ClientError) as missing:
        client.head_object(Bucket="devcluster", Key="corrupt")
    assert error_code(missing) == "404"


def test_of_racing_writers_one_wins(client: Any) -> None:
    outcomes: list[int | None] = []

    def write(number: int) -> None:
        try:
            client.put_object(Bucket="devcluster", Key="claim", Body=str(number).encode(), IfNoneMatch="*")
            outcomes.append(number)
        except ClientError:
            outcomes.append(None)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [number for number in outcomes if number is not None]
    assert client.get_object(Bucket="devcluster", Key="claim")["Body"].read() == str(winner).encode()


def test_the_keys_are_private(s3_server: S3Server) -> None:
    path = s3_server.state.config / "s3-access-key.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    record = s3_server.processes.load("versitygw")
    assert record is not None
    command = Path(f"/proc/{record.pid}/cmdline").read_bytes().decode()
    assert s3_server.access_key.secret not in command
    assert f"{s3_server.state.root}/s3" in command


def test_a_restart_keeps_address_keys_and_objects(short_tmp: Path) -> None:
    with S3Server(short_tmp / "restarted") as server:
        make_client(server).create_bucket(Bucket="kept")
        endpoint, key = server.endpoint, server.access_key
        server.stop()
        again = S3Server(short_tmp / "restarted")
        again.start()
        assert (again.endpoint, again.access_key) == (endpoint, key)
        assert [bucket["Name"] for bucket in make_client(again).list_buckets()["Buckets"]] == ["kept"]
    assert not (short_tmp / "restarted").exists()
