"""Reports reach an HTTPS server with a bearer token, and trouble on the way never reaches training."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time
import urllib.error
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from finetune_api.progress import ProgressReport, TrainerStatus, TrainingReport
from finetune_trainer import progress_reporter
from finetune_trainer.progress_reporter import ProgressEndpoint, ProgressReporter
from tests.builders.self_signed import write_certificate


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
    headers: dict[str, str] = field(default_factory=dict)
    talks_nonsense: bool = False
    context: ssl.SSLContext = field(default_factory=lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))

    def steps(self) -> list[int]:
        return [report["finetune"]["step"] for report in self.received]

    def wait_for(self, count: int) -> None:
        deadline = time.monotonic() + 10
        while len(self.received) < count:
            assert time.monotonic() < deadline, f"only {len(self.received)} of {count} reports came"
            time.sleep(0.005)


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    write_certificate(tmp_path)
    (tmp_path / "token").write_text("first-token\n")
    operator = Operator("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            operator.tokens.append(self.headers["Authorization"])
            operator.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            if operator.talks_nonsense:
                self.wfile.write(b"good day\r\n\r\n")
                return
            self.send_response(operator.answer)
            for name, value in operator.headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    operator.context.load_cert_chain(tmp_path / "ca.crt", tmp_path / "key")
    server.socket = operator.context.wrap_socket(server.socket, server_side=True)
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


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_reporter, "MIN_INTERVAL_SECONDS", 0.01)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("answer", [401, 429, 500, 503])
def test_a_report_that_is_not_taken_is_sent_again_until_it_is(
    operator: Operator, endpoint: ProgressEndpoint, answer: int
) -> None:
    operator.answer = answer
    reporter = ProgressReporter(endpoint)
    reporter.report(make_report(1))
    operator.wait_for(3)
    assert set(operator.steps()) == {1}
    operator.answer = 200
    reporter.report(make_report(2))
    deadline = time.monotonic() + 10
    while 2 not in operator.steps():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    reporter.close()
    assert operator.steps()[-1] == 2, "what was taken is not sent again"


@pytest.mark.usefixtures("impatient")
def test_a_newer_report_takes_the_place_of_one_that_was_not_taken(
    operator: Operator, endpoint: ProgressEndpoint
) -> None:
    operator.answer, operator.headers = 503, {"Retry-After": "30"}
    reporter = ProgressReporter(endpoint)
    reporter.report(make_report(1))
    operator.wait_for(1)
    reporter.report(make_report(2))
    operator.answer = 200
    reporter.close()
    assert operator.steps() == [1, 2]


@pytest.mark.parametrize(
    ("failures", "headers", "expected"),
    [
        (1, {}, 5.0),
        (3, {}, 20.0),
        (50, {}, 60.0),
        (1, {"Retry-After": "12"}, 12.0),
        (1, {"Retry-After": "86400"}, 60.0),
        (1, {"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"}, 5.0),
    ],
    ids=["once", "three times", "many times", "asked to wait", "asked to wait too long", "asked by a date"],
)
def test_the_wait_grows_and_the_operators_wish_is_heard(
    failures: int, headers: dict[str, str], expected: float
) -> None:
    message = http.client.HTTPMessage()
    for name, value in headers.items():
        message[name] = value
    error = urllib.error.HTTPError("https://operator", 429, "Too Many Requests", message, None)
    assert progress_reporter._pause_seconds(failures, error) == expected


@pytest.mark.usefixtures("impatient")
def test_a_new_authority_is_trusted_as_soon_as_its_file_is_there(
    operator: Operator, endpoint: ProgressEndpoint, tmp_path: Path
) -> None:
    """The operator renews its certificate; the kubelet brings the new file a moment later."""
    reporter = ProgressReporter(endpoint)
    reporter.report(make_report(1))
    operator.wait_for(1)
    renewed = tmp_path / "renewed"
    renewed.mkdir()
    write_certificate(renewed)
    operator.context.load_cert_chain(renewed / "ca.crt", renewed / "key")
    reporter.report(make_report(2))
    deadline = time.monotonic() + 10
    while reporter._failures == 0:
        assert time.monotonic() < deadline, "the old file is no longer enough"
        time.sleep(0.005)
    endpoint.ca_path.write_bytes((renewed / "ca.crt").read_bytes())
    operator.wait_for(2)
    reporter.close()
    assert operator.steps() == [1, 2]


@pytest.mark.usefixtures("impatient")
def test_an_answer_that_is_no_http_does_not_end_the_reports(
    operator: Operator, endpoint: ProgressEndpoint
) -> None:
    operator.talks_nonsense = True
    reporter = ProgressReporter(endpoint)
    reporter.report(make_report(1))
    operator.wait_for(2)
    reporter.close()


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
