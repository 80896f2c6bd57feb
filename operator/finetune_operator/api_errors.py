"""What the API server's errors mean: who has to act, or whether time heals. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping

from finetune_operator.kubernetes_objects import JsonObject


class ClusterError(Exception):
    """The API server did not do what was asked."""

    def __init__(self, message: str, *, status: int = 0, reason: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.reason = reason


class NotFound(ClusterError):
    """404: the object does not exist."""


class AlreadyExists(ClusterError):
    """409 on create: an object of this name exists."""


class Conflict(ClusterError):
    """409 on update: the object has changed since it was read."""


class Refused(ClusterError):
    """403 or 422: permissions, quota, admission or validation. Somebody has to act."""


class NamespaceTerminating(Refused):
    """403: nothing can be created in a namespace that is being deleted."""


class Unavailable(ClusterError):
    """The API server cannot be reached, is overloaded or failed: time heals.

    `failed_quickly`: it costs little to try once more at once.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        retry_after_seconds: float | None = None,
        failed_quickly: bool = False,
    ) -> None:
        super().__init__(message, status=status)
        self.retry_after_seconds = retry_after_seconds
        self.failed_quickly = failed_quickly


def error_of_response(
    method: str, path: str, status: int, content: bytes, headers: Mapping[str, str]
) -> ClusterError:
    """Map an answer of the API server to the exception that says what can be done about it."""
    told = _parse_status(content)
    message, reason = told.get("message") or f"{method} {path}: HTTP {status}", told.get("reason") or ""
    causes = {cause.get("reason") for cause in (told.get("details") or {}).get("causes") or ()}
    match status, reason:
        case 404, _:
            return NotFound(message, status=status, reason=reason)
        case 409, "AlreadyExists":
            return AlreadyExists(message, status=status, reason=reason)
        case 409, _:
            return Conflict(message, status=status, reason=reason)
        case 403, _ if "NamespaceTerminating" in causes:
            return NamespaceTerminating(message, status=status, reason=reason)
        case ((400 | 403 | 422), _):
            return Refused(message, status=status, reason=reason)
        case _:
            pause_seconds = _retry_after_seconds(headers)
            # 401: a token that is refused now is refused in a moment, too. 410: so is one to go on with a list.
            # 504: it took its time.
            quick = status not in (401, 410, 504)
            return Unavailable(
                message, status=status, retry_after_seconds=pause_seconds, failed_quickly=quick
            )


def _retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """For how long the API server wants to be left alone. It never gives a date, as proxies might."""
    text = headers.get("Retry-After", "")
    return float(text) if text.isdecimal() else None


def _parse_status(content: bytes) -> JsonObject:
    try:
        told = json.loads(content)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}
