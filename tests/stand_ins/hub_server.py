"""What the stand-ins of the hubs share: a small HTTP server on loopback that goes wrong as a test tells it to.

    hub.answer(503, to=r"/tree/", times=1)                      # busy once
    hub.answer(429, to=r"\\.safetensors", headers={"Retry-After": "0"})
    hub.cut(after_bytes=1000, to=r"\\.safetensors", times=2)     # the connection ends early, twice
    hub.reset(after_bytes=1000, to=r"\\.safetensors")            # the same, with a RST
    hub.damage(at_byte=17, to=r"\\.safetensors", times=1)        # one byte is another one
    hub.send_elsewhere("http://169.254.169.254/", to=r"/resolve/")
    [each for each in hub.seen if "resolve" in each.path]

It answers ranges, keeps connections open, and notes every request. As the target of HTTP_PROXY it answers for any host.
Faults are tried in the order in which they were given; the first that matches and is not used up happens.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from tests.builders.self_signed import CERTIFICATE_NAME, KEY_NAME

BLOCK_BYTES = 16 * 1024
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


def connect_directly(patch: pytest.MonkeyPatch) -> None:
    """Take the proxies of whoever runs the tests out of the environment."""
    for name in PROXY_VARIABLES:
        patch.delenv(name, raising=False)
        patch.delenv(name.lower(), raising=False)


@dataclass(frozen=True)
class Request:
    """One request, its path without host and query, decoded."""

    method: str
    host: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]

    @property
    def token(self) -> str | None:
        """The bearer token."""
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        return token if scheme.lower() == "bearer" else None


@dataclass(frozen=True)
class Seen(Request):
    """A request that was answered, and with what."""

    status: int = 0
    sent_bytes: int = 0


@dataclass(frozen=True)
class Answer:
    """An answer; `ranged` ones give the part that was asked for."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    ranged: bool = False


def json_answer(value: Any, status: int = 200, **headers: str) -> Answer:
    """An answer of JSON; `X_Error_Code` stands for the header X-Error-Code."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json", **named})


@dataclass
class Fault:
    """What goes wrong with requests that match, and how often still."""

    pattern: re.Pattern[str]
    times: int
    answer: Answer | None = None
    cut_after: int | None = None
    with_reset: bool = False
    damaged_byte: int | None = None


class HubServer:
    """The server; a hub's own protocol is in `respond`."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.ignores_ranges = False
        self._scheme = "http"
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.005,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        """The port on 127.0.0.1."""
        return int(self._server.server_address[1])

    @property
    def endpoint(self) -> str:
        """The hub's address."""
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def use_certificate(self, folder: Path) -> None:
        """Speak TLS, with the certificate in this folder. Before the server is started."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / CERTIFICATE_NAME, folder / KEY_NAME)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._scheme = "https"

    def respond(self, request: Request) -> Answer:
        """The answer to a request without a fault."""
        raise NotImplementedError

    # --- faults ----------------------------------------------------------------------------------------------

    def answer(
        self, status: int, *, to: str, times: int = 1_000_000, headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> None:  # fmt: skip
        """Answer with a status instead."""
        self._faults.append(Fault(re.compile(to), times, answer=Answer(status, body, headers or {})))

    def send_elsewhere(self, location: str, *, to: str, times: int = 1_000_000) -> None:
        """Redirect to another address."""
        self.answer(302, to=to, times=times, headers={"Location": location})

    def cut(self, after_bytes: int, *, to: str, times: int = 1) -> None:
        """End the connection when so many bytes of the body were sent."""
        self._faults.append(Fault(re.compile(to), times, cut_after=after_bytes))

    def reset(self, after_bytes: int, *, to: str, times: int = 1) -> None:
        """The same, so that the client finds its connection reset."""
        self._faults.append(Fault(re.compile(to), times, cut_after=after_bytes, with_reset=True))

    def damage(self, at_byte: int, *, to: str, times: int = 1) -> None:
        """Send another byte than there is."""
        self._faults.append(Fault(re.compile(to), times, damaged_byte=at_byte))

    def fault_of(self, request: Request) -> Fault | None:
        """The fault of a request, used up once."""
        with self._lock:
            for fault in self._faults:
                if fault.times > 0 and fault.pattern.search(request.path):
                    fault.times -= 1
                    return fault
        return None

    def note(self, seen: Seen) -> None:
        """Remember a request."""
        with self._lock:
            self.seen.append(seen)

    def sent(self, pattern: str) -> int:
        """How many bytes of bodies were sent to requests whose path matches."""
        with self._lock:
            return sum(
                each.sent_bytes
                for each in self.seen
                if re.search(pattern, each.path) and each.status in (200, 206)
            )


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # Its threads end with their connections, which clients may keep.
    block_on_close = False

    def __init__(self, hub: HubServer) -> None:
        self.hub = hub
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    # Head and body are two writes, and the second would wait for an acknowledgement of the first.
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        self._handle()

    def do_HEAD(self) -> None:
        self._handle()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing is logged: `seen` tells."""

    def _handle(self) -> None:
        request = self._request()
        hub = self.server.hub
        fault = hub.fault_of(request)
        answer = (fault.answer if fault else None) or hub.respond(request)
        status, headers, body = _part(answer, request, ranged=answer.ranged and not hub.ignores_ranges)
        if fault is not None and fault.damaged_byte is not None and fault.damaged_byte < len(body):
            body = (
                body[: fault.damaged_byte]
                + bytes([body[fault.damaged_byte] ^ 1])
                + body[fault.damaged_byte + 1 :]
            )
        end = len(body) if fault is None or fault.cut_after is None else min(fault.cut_after, len(body))
        # Noted before the last byte leaves: whoever has it all can look.
        hub.note(Seen(**request.__dict__, status=status, sent_bytes=0 if request.method == "HEAD" else end))
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if request.method != "HEAD":
            self._send(body[:end])
        if end < len(body):
            self._break_off(with_reset=fault is not None and fault.with_reset)

    def _request(self) -> Request:
        parts = urlsplit(self.path)  # a proxy's requests carry the whole URL
        return Request(
            method=self.command,
            host=parts.netloc or self.headers.get("Host", ""),
            path=unquote(parts.path),
            query={name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()},
            headers={name.lower(): value for name, value in self.headers.items()},
        )

    def _send(self, body: bytes) -> None:
        for start in range(0, len(body), BLOCK_BYTES):
            self.wfile.write(body[start : start + BLOCK_BYTES])
        self.wfile.flush()

    def _break_off(self, *, with_reset: bool) -> None:
        if with_reset:
            # A reset throws away what the client has not read yet.
            time.sleep(0.05)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.shutdown(socket.SHUT_RDWR) if not with_reset else self.connection.close()
        self.close_connection = True


def _part(answer: Answer, request: Request, *, ranged: bool) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the range that was asked for."""
    headers, wanted = (
        dict(answer.headers),
        re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", "")),
    )
    if not ranged or wanted is None:
        return answer.status, headers, answer.body
    size, start = len(answer.body), int(wanted[1])
    end = min(int(wanted[2]), size - 1) if wanted[2] else size - 1
    if start >= size:
        return 416, {**headers, "Content-Range": f"bytes */{size}"}, b""
    return 206, {**headers, "Content-Range": f"bytes {start}-{end}/{size}"}, answer.body[start : end + 1]
