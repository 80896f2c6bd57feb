"""The progress server's port: what strangers can hold of it, over real sockets and TLS."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from finetune_operator.certificate import ensure_current
from finetune_operator.cluster import TokenVerdict
from finetune_operator.observation import PodFacts, Reporter
from finetune_operator.progress_server import ProgressServer
from finetune_operator.token_reviews import TokenReviews
from tests.unit.operator.builders import NOW
from tests.unit.operator.pod_tokens import EPOCH, POD_1, make_token

MAX_CONNECTIONS = 3
LIFE_SECONDS = 1.0
DEADLINE_SECONDS = 20.0
GOOD_REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class OnePod:
    """One pod is known, and its token is good: it may be as hostile as any stranger."""

    async def review_token(self, token: str, audience: str) -> TokenVerdict:
        account = f"system:serviceaccount:{POD_1.namespace}:default"
        return TokenVerdict(True, account, POD_1.name, POD_1.uid)

    def reporter(self, pod_uid: str) -> Reporter | None:
        pod = PodFacts(
            name=POD_1.name, namespace=POD_1.namespace, uid=POD_1.uid, job_uid="child-1", created=NOW
        )
        return Reporter(pod, "child-1", "job-1")


class Port:
    """A server's port, and how one connects to it."""

    def __init__(self, number: int, authority: bytes) -> None:
        self.number = number
        self._authority = authority

    async def connect(
        self, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        tls = ssl.create_default_context(cadata=self._authority.decode())
        tls.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        tls.maximum_version = version
        tls.set_ciphers("DEFAULT:@SECLEVEL=0")
        return await asyncio.open_connection("127.0.0.1", self.number, ssl=tls)

    async def connect_plain(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.number)


@pytest.fixture
async def port(tmp_path: Path) -> AsyncIterator[Port]:
    bundle = ensure_current(None, "127.0.0.1", datetime.now(UTC))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    pem = tmp_path / "server.pem"
    pem.write_bytes(bundle.leaf.certificate + bundle.leaf.key)
    tls.load_cert_chain(pem)
    pods = OnePod()
    server = ProgressServer(
        TokenReviews(pods, wall_clock=lambda: EPOCH), pods, lambda owner, report: None, lambda: NOW
    )
    runner = await server.start(0, tls, max_connections=MAX_CONNECTIONS, max_connection_seconds=LIFE_SECONDS)
    # IPv4 and IPv6 each have a port of their own.
    number = next(address[1] for address in runner.addresses if len(address) == 2)
    yield Port(number, bundle.authorities)
    await runner.cleanup()


async def is_closed(reader: asyncio.StreamReader) -> bool:
    """Whether the server ends the connection, before the deadline."""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        await asyncio.wait_for(reader.read(), DEADLINE_SECONDS)
    return True


async def status_of(reader: asyncio.StreamReader) -> int:
    line = await asyncio.wait_for(reader.readline(), DEADLINE_SECONDS)
    return int(line.split()[1])


async def test_a_request_is_answered_and_its_connection_closed(port: Port) -> None:
    reader, writer = await port.connect()
    writer.write(GOOD_REQUEST)

    assert await status_of(reader) == 404
    assert await is_closed(reader)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"POST /v1alpha1/progress HTTP/1.1\r\nX-", id="half a header"),
        pytest.param(
            b"POST /v1alpha1/progress HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{", id="half a body"
        ),
    ],
)
async def test_who_keeps_the_server_waiting_is_cut_off(port: Port, sent: bytes) -> None:
    reader, writer = await port.connect()
    writer.write(sent)

    assert await is_closed(reader)


@pytest.mark.parametrize(
    "begin",
    [
        pytest.param(b"", id="the request"),
        pytest.param(b"POST /v1alpha1/progress HTTP/1.1\r\nX-", id="a header"),
        pytest.param(
            b"POST /v1alpha1/progress HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n"
            b"Authorization: Bearer " + make_token().encode() + b"\r\n\r\n",
            id="the body, with a good token",
        ),
    ],
)
async def test_who_sends_byte_by_byte_is_cut_off_too(port: Port, begin: bytes) -> None:
    reader, writer = await port.connect()
    writer.write(begin)

    async def drip() -> None:
        while True:
            writer.write(b"x")
            await asyncio.sleep(LIFE_SECONDS / 20)

    dripping = asyncio.create_task(drip())
    assert await is_closed(reader)
    dripping.cancel()


async def test_who_does_not_shake_hands_is_cut_off(port: Port) -> None:
    reader, _ = await port.connect_plain()

    assert await is_closed(reader)


async def test_of_too_many_connections_the_last_is_refused_until_there_is_room(port: Port) -> None:
    held = [await port.connect() for _ in range(MAX_CONNECTIONS)]

    with contextlib.suppress(ConnectionError, ssl.SSLError):
        reader, writer = await port.connect()
        writer.write(GOOD_REQUEST)
        assert await asyncio.wait_for(reader.read(), DEADLINE_SECONDS) == b""

    held[0][1].close()
    for _ in range(200):
        with contextlib.suppress(ConnectionError, ssl.SSLError, IndexError):
            reader, writer = await port.connect()
            writer.write(GOOD_REQUEST)
            assert await status_of(reader) == 404
            return
        await asyncio.sleep(0.05)
    pytest.fail("there was never room again")


@pytest.mark.parametrize(
    "version",
    [
        pytest.param(ssl.TLSVersion.TLSv1, id="1.0", marks=pytest.mark.filterwarnings("ignore")),
        pytest.param(ssl.TLSVersion.TLSv1_1, id="1.1", marks=pytest.mark.filterwarnings("ignore")),
    ],
)
async def test_old_versions_of_tls_are_refused(port: Port, version: ssl.TLSVersion) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await port.connect(version)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
async def test_newer_versions_of_tls_are_spoken(port: Port, version: ssl.TLSVersion) -> None:
    reader, writer = await port.connect(version)
    writer.write(GOOD_REQUEST)

    assert await status_of(reader) == 404


@pytest.mark.parametrize(
    ("request_lines", "status"),
    [
        pytest.param([b"X-%d: 1" % number for number in range(100)], 400, id="a hundred headers"),
        pytest.param([b"Authorization: Bearer " + b"x" * 20_000], 400, id="an endless token"),
    ],
)
async def test_headers_are_bounded_and_garbage_fills_no_log(
    port: Port, caplog: pytest.LogCaptureFixture, request_lines: list[bytes], status: int
) -> None:
    reader, writer = await port.connect()
    writer.write(b"\r\n".join([b"POST /v1alpha1/progress HTTP/1.1", b"Host: x", *request_lines, b"", b""]))

    assert await status_of(reader) == status
    assert caplog.records == []
