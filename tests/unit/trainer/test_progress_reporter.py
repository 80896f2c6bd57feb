"""Reports reach an HTTPS server with a bearer token, and trouble on the way never reaches training."""

from __future__ import annotations

import ipaddress
import json
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from finetune_api.progress import ProgressReport, TrainerStatus, TrainingReport
from finetune_trainer import progress_reporter
from finetune_trainer.progress_reporter import ProgressEndpoint, ProgressReporter


def make_report(step: int) -> ProgressReport:
    return ProgressReport(
        trainer_status=TrainerStatus(progress_percentage=step),
        finetune=TrainingReport(step=step, total_steps=100, loss=1.5),
    )


@dataclass
class Operator:
    """A stand-in for the operator's progress server."""

    url: str
    received: list[dict[str, Any]] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    answer: int = 200

    def steps(self) -> list[int]:
        return [report["finetune"]["step"] for report in self.received]

    def wait_for(self, count: int) -> None:
        deadline = time.monotonic() + 10
        while len(self.received) < count:
            assert time.monotonic() < deadline, f"only {len(self.received)} of {count} reports came"
            time.sleep(0.005)


def write_certificate(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "ca.crt").write_bytes(certificate.public_bytes(pem))
    (folder / "key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    write_certificate(tmp_path)
    (tmp_path / "token").write_text("first-token\n")
    operator = Operator("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            operator.tokens.append(self.headers["Authorization"])
            operator.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(operator.answer)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "ca.crt", tmp_path / "key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    operator.url = f"https://127.0.0.1:{server.server_port}/v1alpha1/progress"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield operator
    server.shutdown()
    server.server_close()


@pytest.fixture
def endpoint(operator: Operator, tmp_path: Path) -> ProgressEndpoint:
    return ProgressEndpoint(operator.url, tmp_path / "token", tmp_path / "ca.crt")


def test_report_arrives_as_the_operator_parses_it(operator: Operator, endpoint: ProgressEndpoint) -> None:
    reporter = ProgressReporter(endpoint)
    reporter.report(make_report(3))
    operator.wait_for(1)
    reporter.close()
    assert ProgressReport.model_validate(operator.received[0]) == make_report(3)
    assert operator.tokens == ["Bearer first-token"]


def test_only_the_newest_waits_and_the_last_is_always_sent(
    operator: Operator, endpoint: ProgressEndpoint
) -> None:
    reporter = ProgressReporter(endpoint)
    reporter.report(make_report(1))
    operator.wait_for(1)
    for step in range(2, 50):
        reporter.report(make_report(step))
    reporter.close()
    assert operator.steps() == [1, 49]


def test_reports_keep_their_distance(
    operator: Operator, endpoint: ProgressEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_reporter, "MIN_INTERVAL_SECONDS", 0.3)
    reporter = ProgressReporter(endpoint)
    began = time.monotonic()
    for step in range(10):
        reporter.report(make_report(step))
        operator.wait_for(1)
        time.sleep(0.05)
    reporter.close()
    assert len(operator.received) <= 2 + (time.monotonic() - began) / 0.3


def test_token_is_read_again_for_every_report(
    operator: Operator, endpoint: ProgressEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_reporter, "MIN_INTERVAL_SECONDS", 0.0)
    reporter = ProgressReporter(endpoint)
    reporter.report(make_report(1))
    operator.wait_for(1)
    endpoint.token_path.write_text("second-token")
    reporter.report(make_report(2))
    operator.wait_for(2)
    reporter.close()
    assert operator.tokens == ["Bearer first-token", "Bearer second-token"]


@pytest.mark.parametrize("trouble", ["refused", "no server", "no token", "another authority"])
def test_trouble_is_logged_and_no_more(
    trouble: str,
    operator: Operator,
    endpoint: ProgressEndpoint,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    if trouble == "refused":
        operator.answer = 401
    elif trouble == "no server":
        endpoint = ProgressEndpoint("https://127.0.0.1:1/progress", endpoint.token_path, endpoint.ca_path)
    elif trouble == "no token":
        endpoint.token_path.unlink()
    else:
        write_certificate(tmp_path)
    reporter = ProgressReporter(endpoint)
    reporter.report(make_report(1))
    reporter.close()
    assert "progress report 1 not delivered" in caplog.text
    assert "first-token" not in caplog.text


def test_without_an_operator_nothing_is_sent() -> None:
    reporter = ProgressReporter(None)
    reporter.report(make_report(1))
    reporter.close()
