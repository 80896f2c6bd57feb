"""Log lines: JSON with the job's namespace, name, uid and attempt as fields, or plain text for people."""

from __future__ import annotations

import json
import logging
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any

from finetune_operator.job_resource import FineTuneJob
from finetune_operator.settings import LogFormat

_JOB_ATTRIBUTE = "finetune_job"


def job_logger(
    logger: logging.Logger, job: FineTuneJob, *, attempt: str | None = None
) -> logging.LoggerAdapter[logging.Logger]:
    """A logger whose lines say which job they are about."""
    fields = {"namespace": job.namespace, "name": job.name, "uid": job.uid}
    if attempt is not None:
        fields["attempt"] = attempt
    return _JobLoggerAdapter(logger, {_JOB_ATTRIBUTE: fields})


class _JobLoggerAdapter(logging.LoggerAdapter[logging.Logger]):
    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:  # noqa: ANN401
        return msg, {**kwargs, "extra": self.extra}


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Write the record."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, _JOB_ATTRIBUTE, {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class PlainFormatter(logging.Formatter):
    """Time, level, job and message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(job)s%(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Write the record."""
        fields = getattr(record, _JOB_ATTRIBUTE, None)
        record.job = f"[{fields['namespace']}/{fields['name']}] " if fields else ""
        return super().format(record)


def configure_logging(log_format: LogFormat, level: str) -> None:
    """Send every log line of this process to stderr in one format."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else PlainFormatter())
    logging.basicConfig(handlers=[handler], level=level, force=True)
    # kopf logs every event that it hands to a handler.
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)
