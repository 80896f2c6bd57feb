"""Log lines: one record is one line, says which job and attempt it is about, and holds no credential."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from finetune_operator.logs import JsonFormatter, PlainFormatter, concerning, concerning_key, job_logger
from tests.unit.operator.builders import UID, job_in_training, make_job

JWT = "eyJhbGciOiJSUzI1NiJ9.eyJhdWQiOlsiZmluZXR1bmUiXX0.c2lnbmF0dXJlLW9mLXRoZS10b2tlbg"
KEY = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----"


class Lines(logging.Handler):
    """What was logged, as JSON lines."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonFormatter())
        self.raw: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.raw.append(self.format(record))

    def parsed(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.raw]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """Lines of the logger `test-logs`."""
    logger = logging.getLogger("test-logs")
    logger.propagate, logger.level = False, logging.INFO
    handler = Lines()
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


LOGGER = logging.getLogger("test-logs")


def test_a_line_carries_the_job_as_fields(lines: Lines) -> None:
    job_logger(LOGGER, make_job(), attempt="bot-train-1").info("Job %s exists", "x")

    (line,) = lines.parsed()
    assert line["message"] == "Job x exists"
    assert line["level"] == "INFO"
    assert {name: line[name] for name in ("namespace", "name", "uid", "attempt")} == {
        "namespace": "ml",
        "name": "bot",
        "uid": UID,
        "attempt": "bot-train-1",
    }


def test_without_another_word_the_newest_attempt_is_meant(lines: Lines) -> None:
    job, _ = job_in_training()

    with concerning(job):
        LOGGER.info("by the code around it")
    job_logger(LOGGER, job).info("by its logger")
    job_logger(LOGGER, job, attempt="bot-train-2").info("of the next one")

    assert [line["attempt"] for line in lines.parsed()] == ["bot-train-1", "bot-train-1", "bot-train-2"]


async def test_lines_of_any_logger_carry_the_job_that_the_code_around_is_about(lines: Lines) -> None:
    async def work() -> None:
        await asyncio.sleep(0)
        LOGGER.info("inside")

    with concerning_key("ml", "bot"):
        LOGGER.info("known by name")
        with concerning(make_job(), attempt="bot-train-2"):
            # Work of another job that runs meanwhile, and work that this one starts.
            other = asyncio.get_running_loop().create_task(work())
            await other
        LOGGER.info("the attempt is done")
    LOGGER.info("outside")

    told = [(line.get("name"), line.get("uid"), line.get("attempt")) for line in lines.parsed()]
    assert told == [
        ("bot", None, None),
        ("bot", UID, "bot-train-2"),
        ("bot", None, None),
        (None, None, None),
    ]


async def test_jobs_that_are_worked_on_at_once_are_not_mixed_up(lines: Lines) -> None:
    async def work(name: str) -> None:
        with concerning_key("ml", name):
            for _ in range(3):
                await asyncio.sleep(0)
                LOGGER.info("%s", name)

    await asyncio.gather(work("a"), work("b"))

    assert all(line["name"] == line["message"] for line in lines.parsed())


def test_what_kopf_says_of_a_finetunejob_is_about_that_job(lines: Lines) -> None:
    reference = {"kind": "FineTuneJob", "namespace": "ml", "name": "bot", "uid": "u"}
    LOGGER.info("Handler failed", extra={"k8s_ref": reference})
    LOGGER.info("Handler failed", extra={"k8s_ref": {**reference, "kind": "Pod", "name": "bot-train-1-x"}})

    first, second = lines.parsed()
    assert (first["namespace"], first["name"], first["uid"]) == ("ml", "bot", "u")
    assert "name" not in second


def test_times_are_rfc_3339_in_utc() -> None:
    record = LOGGER.makeRecord("x", logging.INFO, "", 0, "m", (), None)
    record.created = 1767268800.25

    assert json.loads(JsonFormatter().format(record))["ts"] == "2026-01-01T12:00:00.250Z"
    assert PlainFormatter().format(record).startswith("2026-01-01T12:00:00.250Z INFO")


@pytest.mark.parametrize("formatter", [JsonFormatter(), PlainFormatter()], ids=["json", "plain"])
def test_a_record_is_one_line_also_with_a_traceback(formatter: logging.Formatter) -> None:
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        record = LOGGER.makeRecord("x", logging.ERROR, "", 0, "a\nb\r\n\u2028c", (), sys.exc_info())
    line = formatter.format(record)

    assert "\n" not in line
    assert "ValueError" in line
    assert "second" in line


def test_the_plain_line_begins_with_the_job() -> None:
    with concerning(make_job()):
        record = LOGGER.makeRecord("x", logging.INFO, "", 0, "Job x exists", (), None)
        assert "[ml/bot] Job x exists" in PlainFormatter().format(record)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        pytest.param(f"Authorization: Bearer {JWT}", "Authorization: Bearer [redacted]", id="header"),
        pytest.param(
            "{'authorization': 'bearer abc.def'}", "{'authorization': 'bearer [redacted]'}", id="repr"
        ),
        pytest.param(f"token {JWT}, see", "token [redacted], see", id="JSON web token"),
        pytest.param(f"key: {KEY} end", "key: [redacted] end", id="private key"),
        pytest.param("a bearer token is required", "a bearer [redacted] is required", id="a false alarm"),
        pytest.param("Job bot-train-1 exists", "Job bot-train-1 exists", id="nothing secret"),
    ],
)
def test_what_looks_like_a_credential_is_blotted_out(lines: Lines, text: str, left: str) -> None:
    LOGGER.info("%s", text)
    try:
        raise RuntimeError(text)
    except RuntimeError:
        LOGGER.exception("it failed")

    first, second = lines.parsed()
    assert first["message"] == left
    assert second["exception"].endswith(f"RuntimeError: {left}")


def test_a_line_stays_below_what_container_runtimes_split(lines: Lines) -> None:
    LOGGER.info("%s end", "\u0000ü" * 50_000)
    try:
        raise ValueError("x" * 100_000 + " the last words")
    except ValueError:
        LOGGER.exception("begin %s", "y" * 100_000)

    assert max(len(line.encode()) for line in lines.raw) <= 16_000
    first, second = lines.parsed()
    assert first["message"].endswith("end")
    assert second["message"].startswith("begin")
    assert second["exception"].endswith("the last words")


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        pytest.param("%d steps", ("many",), id="an argument of the wrong kind"),
        pytest.param("a name that is no UTF-8: %s", ("\udcff",), id="a lone surrogate"),
        pytest.param({"an": "object"}, (), id="no text"),
    ],
)
def test_no_record_is_lost_for_what_it_holds(message: Any, arguments: tuple[Any, ...]) -> None:
    record = LOGGER.makeRecord("x", logging.INFO, "", 0, message, arguments, None)

    assert JsonFormatter().format(record).encode()
    assert PlainFormatter().format(record).encode()


EVERYBODY_TALKS = """
import asyncio, logging, threading, warnings
from finetune_operator.logs import configure_logging

configure_logging("json", "INFO")
logging.getLogger("kopf._core.reactor.running").info("Initial authentication has been initiated.")
logging.getLogger("aiohttp.server").error("Error handling request", exc_info=ValueError("a\\nb"))
warnings.warn("old ways")
threading.Thread(target=lambda: 1 / 0).start()

async def main():
    asyncio.get_running_loop().call_exception_handler({"message": "unheard of", "exception": OSError("x")})

asyncio.run(main())
raise RuntimeError("the end\\nof it")
"""


def test_everybody_writes_in_the_same_format() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", EVERYBODY_TALKS], capture_output=True, text=True, timeout=60
    )

    told = [json.loads(line) for line in ended.stderr.splitlines()]
    assert ended.stdout == ""
    assert {line["logger"] for line in told} == {
        "kopf._core.reactor.running",
        "aiohttp.server",
        "py.warnings",
        "asyncio",
        "finetune_operator",
    }
    assert told[-1]["exception"].endswith("RuntimeError: the end\nof it")
    assert all({"ts", "level", "logger", "message"} <= set(line) for line in told)
