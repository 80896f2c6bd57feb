"""Log lines say which job and attempt they are about."""

from __future__ import annotations

import json
import logging

from finetune_operator.logs import JsonFormatter, PlainFormatter, job_logger
from tests.unit.operator.builders import UID, make_job


def record_of(*, attempt: str | None) -> logging.LogRecord:
    records: list[logging.LogRecord] = []
    logger = logging.getLogger("test-logs")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign,assignment]
    logger.addHandler(handler)
    job_logger(logger, make_job(), attempt=attempt).info("Job %s exists", "x")
    logger.removeHandler(handler)
    return records[0]


def test_a_json_line_carries_the_job_as_fields() -> None:
    line = json.loads(JsonFormatter().format(record_of(attempt="bot-train-1")))

    assert line["message"] == "Job x exists"
    assert {name: line[name] for name in ("namespace", "name", "uid", "attempt")} == {
        "namespace": "ml",
        "name": "bot",
        "uid": UID,
        "attempt": "bot-train-1",
    }


def test_a_plain_line_begins_with_the_job() -> None:
    assert "[ml/bot] Job x exists" in PlainFormatter().format(record_of(attempt=None))
