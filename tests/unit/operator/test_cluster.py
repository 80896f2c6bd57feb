"""What the API server's answers mean: who has to act, or whether time heals."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_operator.cluster import (
    AlreadyExists,
    ClusterError,
    Conflict,
    NamespaceTerminating,
    NotFound,
    Refused,
    Unavailable,
    error_of_response,
)


def error(status: int, reason: str = "", headers: dict[str, str] | None = None, **body: Any) -> ClusterError:
    content = json.dumps({"kind": "Status", "message": "because", "reason": reason, **body}).encode()
    return error_of_response("POST", "/x", status, content, headers or {})


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        (404, "NotFound", NotFound),
        (409, "AlreadyExists", AlreadyExists),
        (409, "Conflict", Conflict),
        (403, "Forbidden", Refused),
        (422, "Invalid", Refused),
        (400, "BadRequest", Refused),
        (401, "Unauthorized", Unavailable),
        (429, "TooManyRequests", Unavailable),
        (500, "InternalError", Unavailable),
        (503, "ServiceUnavailable", Unavailable),
        (504, "Timeout", Unavailable),
    ],
)
def test_each_answer_has_its_meaning(status: int, reason: str, kind: type[ClusterError]) -> None:
    told = error(status, reason)

    assert type(told) is kind
    assert (told.message, told.status) == ("because", status)


def test_a_namespace_that_is_being_deleted_is_told_apart() -> None:
    told = error(403, "Forbidden", details={"causes": [{"reason": "NamespaceTerminating"}]})

    assert type(told) is NamespaceTerminating


def test_the_api_server_says_when_to_come_again() -> None:
    told = error(429, headers={"Retry-After": "7"})

    assert isinstance(told, Unavailable)
    assert told.retry_after_seconds == 7


@pytest.mark.parametrize("content", [b"", b"<html>", b"[]"])
def test_an_answer_that_is_no_status_still_says_what_was_asked(content: bytes) -> None:
    told = error_of_response("GET", "/x", 502, content, {})

    assert type(told) is Unavailable
    assert told.message == "GET /x: HTTP 502"
