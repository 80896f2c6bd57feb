"""Log lines: JSON with the job's namespace, name, uid and attempt as fields, or plain text for people.

Every line of the process goes through here, also kopf's, aiohttp's and asyncio's, and says which job it is about
where the code around it does (`concerning`). One record is one line, short enough for the container runtime, and
what looks like a credential is blotted out.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from finetune_api import KIND
from finetune_api.names import child_name
from finetune_operator.environment_values import LogFormat
from finetune_operator.job_resource import FineTuneJob

_JOB_ATTRIBUTE = "finetune_job"
# Container runtimes split lines at 16 KiB, and half a line is no JSON. A character may take six bytes (`\u0000`).
_MAX_MESSAGE_CHARACTERS = 4_000
_MAX_EXCEPTION_CHARACTERS = 6_000
_MAX_LINE_BYTES = 16_000
# A net under the rule that credentials are never logged: bearer tokens, JSON web tokens, private keys.
_CREDENTIALS = re.compile(
    r"(?P<scheme>\bBearer\s+)[^\s\"',;]+"
    r"|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(\.[A-Za-z0-9_-]*)?"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    re.DOTALL | re.IGNORECASE,
)

_concerned: ContextVar[Mapping[str, str]] = ContextVar("concerned", default={})  # noqa: B039 (never changed)


@contextmanager
def concerning(job: FineTuneJob, *, attempt: str | None = None) -> Iterator[None]:
    """Let every line that is logged inside, by whatever logger, say that it is about this job."""
    with _fields(_describe(job, attempt)):
        yield


@contextmanager
def concerning_key(namespace: str, name: str) -> Iterator[None]:
    """The same where only the job's name is known."""
    with _fields({"namespace": namespace, "name": name}):
        yield


@contextmanager
def _fields(fields: Mapping[str, str]) -> Iterator[None]:
    token = _concerned.set({**_concerned.get(), **fields})
    try:
        yield
    finally:
        _concerned.reset(token)


def job_logger(
    logger: logging.Logger, job: FineTuneJob, *, attempt: str | None = None
) -> logging.LoggerAdapter[logging.Logger]:
    """A logger whose lines say which job they are about."""
    return _JobLoggerAdapter(logger, {_JOB_ATTRIBUTE: _describe(job, attempt)})


class _JobLoggerAdapter(logging.LoggerAdapter[logging.Logger]):
    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:  # noqa: ANN401
        return msg, {**kwargs, "extra": self.extra}


def _describe(job: FineTuneJob, attempt: str | None) -> dict[str, str]:
    """Fields about a job; without another word the newest attempt is meant."""
    fields = {"namespace": job.namespace, "name": job.name, "uid": job.uid}
    if attempt is None and job.status.attempts:
        newest = job.status.attempts[-1]
        attempt = child_name(job.name, newest.stage, newest.number)
    return fields if attempt is None else {**fields, "attempt": attempt}


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Write the record."""
        line = {
            "ts": format_timestamp(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": _shorten(redact(_message_of(record)), _MAX_MESSAGE_CHARACTERS),
            **_fields_of(record),
        }
        exception = redact(_exception_of(self, record))
        if exception:
            line["exception"] = _shorten(exception, _MAX_EXCEPTION_CHARACTERS)
        return _encode(line)


class PlainFormatter(logging.Formatter):
    """Time, level, job and message; line breaks are marked, so that a line is a record here too."""

    def format(self, record: logging.LogRecord) -> str:
        """Write the record."""
        fields, exception = _fields_of(record), _exception_of(self, record)
        job = f"[{fields['namespace']}/{fields['name']}] " if "name" in fields else ""
        text = f"{_message_of(record)}{f' | {exception}' if exception else ''}"
        told = _shorten(redact(text), _MAX_MESSAGE_CHARACTERS + _MAX_EXCEPTION_CHARACTERS)
        line = f"{format_timestamp(record.created)} {record.levelname:<7} {job}{told}"
        return _writable(line.replace("\n", " ⏎ "))


def format_timestamp(seconds: float) -> str:
    """RFC 3339 in UTC, with milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def redact(text: str) -> str:
    """Blot out what looks like a credential."""
    return _CREDENTIALS.sub(lambda found: f"{found['scheme'] or ''}[redacted]", text)


def _message_of(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError):  # A library's mistake must not cost the line.
        return f"{record.msg} {record.args!r}"


def _exception_of(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = [formatter.formatException(record.exc_info)] if record.exc_info and record.exc_info[0] else []
    if record.stack_info:
        parts.append(formatter.formatStack(record.stack_info))
    return "\n".join(parts)


def _fields_of(record: logging.LogRecord) -> dict[str, str]:
    """Which job a record is about: by the code around it, by its logger, or by kopf's word."""
    told = getattr(record, "k8s_ref", None)
    by_kopf = (
        {field: told[field] for field in ("namespace", "name", "uid") if told.get(field)}
        if isinstance(told, Mapping) and told.get("kind") == KIND
        else {}
    )
    return {**_concerned.get(), **by_kopf, **getattr(record, _JOB_ATTRIBUTE, {})}


def _shorten(text: str, limit: int) -> str:
    """Cut the middle out: the beginning says what was done, the end of a traceback what went wrong."""
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2]} …[{len(text) - limit} characters]… {text[-limit // 2 :]}"


def _encode(line: dict[str, str]) -> str:
    encoded = json.dumps(line, ensure_ascii=False)
    while len(encoded.encode(errors="replace")) > _MAX_LINE_BYTES:
        longest = max(line, key=lambda field: len(line[field]))
        line = {**line, longest: _shorten(line[longest], len(line[longest]) // 2)}
        encoded = json.dumps(line, ensure_ascii=False)
    return _writable(encoded)


def _writable(line: str) -> str:
    """A lone surrogate, from a name that was no UTF-8, cannot be written to a stream."""
    return line.encode(errors="replace").decode()


def configure_logging(log_format: LogFormat, level: str) -> None:
    """Send every log line of this process, and whatever would be printed, to stderr in one format."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else PlainFormatter())
    logging.basicConfig(handlers=[handler], level=level, force=True)
    logging.captureWarnings(True)
    # kopf logs every event that it hands to a handler.
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda told: _log_uncaught(told.exc_type, told.exc_value, told.exc_traceback)


def _log_uncaught(
    kind: type[BaseException], error: BaseException | None, traceback: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt | SystemExit):
        return
    logging.getLogger("finetune_operator").critical(
        "ended by an error that nobody expected", exc_info=(kind, error or kind(), traceback)
    )
