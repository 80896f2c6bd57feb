"""The S3 proxy on the wire, before a server whose every byte is told here."""

from __future__ import annotations

import contextlib
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.stand_ins.http_streams import Head, response_framing
from tests.stand_ins.s3_exchange import Request
from tests.stand_ins.s3_proxy import S3Proxy, requests

PUT = b"PUT /bucket/a%20b?x-id=PutObject HTTP/1.1\r\nhOST: Somewhere:1\r\nX-Odd:  two  spaces \r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"


class Peer:
    """One end of a connection, in bytes."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(5)
        self.socket = connection

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self, expected: bytes) -> None:
        """Receive exactly these bytes."""
        got = b""
        while len(got) < len(expected) and (piece := self.socket.recv(len(expected) - len(got))):
            got += piece
        assert got == expected

    def receive_end(self) -> None:
        assert self.socket.recv(1) == b""


class Server:
    """A server that accepts one connection after another."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.settimeout(5)
        self._peers: list[Peer] = []
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def accept(self) -> Peer:
        self._peers.append(Peer(self._socket.accept()[0]))
        return self._peers[-1]

    def close(self) -> None:
        for peer in self._peers:
            peer.socket.close()
        self._socket.close()


@pytest.fixture
def server() -> Iterator[Server]:
    with contextlib.closing(Server()) as server:
        yield server


@pytest.fixture
def proxy(server: Server, caplog: pytest.LogCaptureFixture) -> Iterator[S3Proxy]:
    with S3Proxy(server.url) as proxy:
        yield proxy
    # asyncio logs what a task raises that nobody waits for.
    assert [*caplog.get_records("call"), *caplog.records] == []


@pytest.fixture
def caller(proxy: S3Proxy) -> Iterator[Peer]:
    host, port = proxy.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        yield Peer(connection)


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(PUT + b"Content-Length: 5\r\n\r\nab\r\n\0", id="a body of known length"),
        pytest.param(PUT + b"content-length: 0\r\n\r\n", id="an empty body"),
        pytest.param(PUT + b"\r\n", id="no body"),
        pytest.param(
            PUT
            + b"Transfer-Encoding: chunked\r\n\r\n5;ext=1\r\nab\r\nc\r\nA\r\n0123456789\r\n0\r\nx-sum: 1\r\n\r\n",
            id="chunks with an extension and a trailer",
        ),
    ],
)
def test_requests_arrive_byte_for_byte_on_one_connection(
    message: bytes, caller: Peer, server: Server, proxy: S3Proxy
) -> None:
    caller.send(message)
    upstream = server.accept()
    for _ in range(2):
        upstream.receive(message)
        upstream.send(OK)
        caller.receive(OK)
        caller.send(message)
    upstream.receive(message)

    assert [each.path for each in proxy.seen] == ["/bucket/a b"] * 2
    assert proxy.seen[0].query == {"x-id": "PutObject"}


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        pytest.param("GET", OK, id="a body of known length"),
        pytest.param(
            "GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", id="chunks"
        ),
        pytest.param("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 700\r\n\r\n", id="HEAD"),
        pytest.param("DELETE", NO_CONTENT, id="204"),
        pytest.param("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", id="304"),
    ],
)
def test_answers_come_back_byte_for_byte_and_leave_the_connection_open(
    method: str, answer: bytes, caller: Peer, server: Server
) -> None:
    request = f"{method} / HTTP/1.1\r\n\r\n".encode()
    caller.send(request)
    upstream = server.accept()
    for _ in range(2):
        upstream.receive(request)
        upstream.send(answer)
        caller.receive(answer)
        caller.send(request)
    upstream.receive(request)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", id="said"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\nok", id="without a length"),
    ],
)
def test_an_answer_that_ends_the_connection_ends_it(answer: bytes, caller: Peer, server: Server) -> None:
    caller.send(b"GET / HTTP/1.1\r\n\r\n")
    upstream = server.accept()
    upstream.receive(b"GET / HTTP/1.1\r\n\r\n")
    upstream.send(answer)
    with contextlib.suppress(OSError):  # the proxy was faster
        upstream.socket.shutdown(socket.SHUT_WR)

    caller.receive(answer)
    caller.receive_end()


def test_a_caller_that_waits_for_continue_gets_it_from_the_server(caller: Peer, server: Server) -> None:
    head = PUT + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n"
    caller.send(head)
    upstream = server.accept()
    for _ in range(2):
        upstream.receive(head)
        upstream.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        caller.receive(b"HTTP/1.1 100 Continue\r\n\r\n")
        caller.send(b"abc")
        upstream.receive(b"abc")
        upstream.send(OK)
        caller.receive(OK)
        caller.send(head)


def test_a_refusal_instead_of_continue_ends_the_connection(caller: Peer, server: Server) -> None:
    refusal = b"HTTP/1.1 412 Precondition Failed\r\nContent-Length: 0\r\n\r\n"
    caller.send(PUT + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n")
    server.accept().send(refusal)

    caller.receive(refusal)
    caller.receive_end()


def test_an_answer_before_the_end_of_the_body_arrives(caller: Peer, server: Server) -> None:
    caller.send(PUT + b"Content-Length: 6\r\n\r\nabc")
    upstream = server.accept()
    upstream.send(OK)
    caller.receive(OK)
    caller.send(b"def" + b"GET /next HTTP/1.1\r\n\r\n")

    upstream.receive(PUT + b"Content-Length: 6\r\n\r\nabcdef" + b"GET /next HTTP/1.1\r\n\r\n")


def test_a_fault_answers_after_the_body_and_the_connection_goes_on(
    caller: Peer, server: Server, proxy: S3Proxy
) -> None:
    proxy.answer(503, code="Slow<Down", to=requests("PUT"))
    caller.send(PUT + b"Content-Length: 3\r\n\r\nabc" + b"GET / HTTP/1.1\r\n\r\n")
    upstream = server.accept()
    upstream.receive(b"GET / HTTP/1.1\r\n\r\n")
    upstream.send(OK)

    received = caller.socket.recv(100_000)
    while OK not in received:
        received += caller.socket.recv(100_000)
    assert received.startswith(
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/xml\r\nContent-Length: "
    )
    assert b"<Error><Code>Slow&lt;Down</Code>" in received
    assert [(each.status, each.request_bytes) for each in proxy.seen] == [(503, 3), (200, 0)]


def test_a_request_is_not_passed_on_as_if_whole_when_its_caller_dies(caller: Peer, server: Server) -> None:
    caller.send(PUT + b"Content-Length: 6\r\n\r\nabc")
    upstream = server.accept()
    upstream.receive(PUT + b"Content-Length: 6\r\n\r\nabc")
    caller.socket.close()

    with contextlib.suppress(ConnectionResetError):
        upstream.receive_end()


def test_the_caller_of_a_server_that_dies_is_reset(caller: Peer, server: Server, proxy: S3Proxy) -> None:
    caller.send(b"GET / HTTP/1.1\r\n\r\n")
    upstream = server.accept()
    upstream.send(OK[:-1])
    upstream.socket.close()

    with pytest.raises(ConnectionResetError):
        while caller.socket.recv(100):
            pass
    deadline = time.monotonic() + 5
    while not proxy.seen and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [each.status for each in proxy.seen] == [0]


def test_a_connection_that_the_server_closed_while_idle_is_opened_anew(caller: Peer, server: Server) -> None:
    for _ in range(3):
        caller.send(b"GET / HTTP/1.1\r\n\r\n")
        upstream = server.accept()
        upstream.receive(b"GET / HTTP/1.1\r\n\r\n")
        upstream.send(OK)
        caller.receive(OK)
        upstream.socket.close()
        time.sleep(0.05)  # nothing tells when the proxy has heard of it


def test_what_is_no_http_is_reset(caller: Peer) -> None:
    caller.send(b"\x16\x03\x01 hello\r\n\r\n")

    with pytest.raises(ConnectionResetError):
        caller.socket.recv(1)


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_slow_reader_slows_the_sender(direction: str, caller: Peer, server: Server) -> None:
    size = 256 * 1024 * 1024
    head = f"Content-Length: {size}\r\n\r\n".encode()
    caller.send(b"PUT / HTTP/1.1\r\n" + head if direction == "up" else b"GET / HTTP/1.1\r\n\r\n")
    upstream = server.accept()
    sender = caller if direction == "up" else upstream
    if direction == "down":
        upstream.send(b"HTTP/1.1 200 OK\r\n" + head)

    sender.socket.settimeout(0.3)
    sent, piece = 0, bytes(1024 * 1024)
    with pytest.raises(TimeoutError):
        while sent < size:
            sent += sender.socket.send(piece)

    assert sent < 64 * 1024 * 1024  # what the kernel keeps of two connections, and a few pieces


def test_a_pause_outlives_its_caller(caller: Peer, server: Server, proxy: S3Proxy) -> None:
    message = PUT + b"Content-Length: 3\r\n\r\nabc"
    pause = proxy.pause(to=requests("PUT"))
    caller.send(message)
    pause.reached(within_seconds=5)
    caller.socket.close()
    pause.release()

    server.accept().receive(message)


def test_in_an_outage_connections_are_refused_and_the_port_stays_ours(proxy: S3Proxy, caller: Peer) -> None:
    port = int(proxy.url.rpartition(":")[2])
    proxy.outage()

    with pytest.raises(ConnectionResetError):
        caller.socket.recv(1)
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
    with pytest.raises(OSError, match="in use"), socket.socket() as other:
        other.bind(("127.0.0.1", port))
    proxy.heal()
    socket.create_connection(("127.0.0.1", port), timeout=5).close()


def test_a_second_proxy_does_not_share_a_port(server: Server, proxy: S3Proxy) -> None:
    with pytest.raises(OSError, match="in use"):
        S3Proxy(server.url, port=int(proxy.url.rpartition(":")[2]))


@pytest.mark.parametrize("url", ["https://127.0.0.1:9000", "127.0.0.1:9000", "http://127.0.0.1:9000/path"])
def test_only_plain_endpoints_are_taken(url: str) -> None:
    with pytest.raises(ValueError, match="is no plain S3 endpoint"):
        S3Proxy(url)


def test_a_limit_of_nothing_is_refused(proxy: S3Proxy) -> None:
    with pytest.raises(ValueError, match="lets nothing through"):
        proxy.limit(0)


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        (requests(), True),
        (requests("PUT", "/key$", "uploadId="), True),
        (requests("POST"), False),
        (requests("PUT", "^key"), False),
        (requests(query="uploads"), False),
    ],
)
def test_requests_match_by_method_path_and_query(match: Callable[[Request], bool], expected: bool) -> None:
    head = Head.parse(b"PUT //bucket/key?uploadId=1&partNumber=2 HTTP/1.1\r\n\r\n")

    assert match(Request.parse(head)) is expected


def test_an_answer_without_a_length_lasts_as_long_as_its_connection() -> None:
    assert response_framing(Head.parse(b"HTTP/1.1 200 OK\r\n\r\n"), "GET") == "until_closed"


def test_it_ends_with_requests_still_open(server: Server) -> None:
    before = threading.active_count()
    with S3Proxy(server.url) as proxy:
        proxy.hang(to=requests("GET"))
        proxy.delay(math.inf, to=requests("PUT"))
        host, port = proxy.url.removeprefix("http://").split(":")
        peers = [Peer(socket.create_connection((host, int(port)))) for _ in range(3)]
        for peer, method in zip(peers, (b"GET", b"PUT", b"POST"), strict=True):
            peer.send(method + b" / HTTP/1.1\r\n\r\n")
        server.accept()

    assert threading.active_count() == before
    for peer in peers:
        with peer.socket, pytest.raises(ConnectionResetError):
            peer.socket.recv(1)
