"""What was asked of the apiserver, by whom, from its own audit log."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})


@dataclass(frozen=True)
class Request:
    """One answered request."""

    user: str
    verb: str
    resource: str
    """The resource, with its subresource after a slash."""
    namespace: str
    name: str
    code: int
    at: float
    """When it was answered, in seconds since 1970."""

    @property
    def is_write(self) -> bool:
        """Whether it meant to change something."""
        return self.verb in WRITES


# A watch shows an object a moment before the answer to the request that made it is logged.
LOGGED_AFTER_SECONDS = 0.5


class AuditLog:
    """The log of one apiserver."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def mark(self) -> int:
        """The moment until which everything is logged; requests are logged when they are answered."""
        return self._path.stat().st_size

    def requests(self, since: int, *, user: str) -> list[Request]:
        """Everything but watches that a user was answered since a mark."""
        with self._path.open("rb") as log:
            log.seek(since)
            # The last line may be half written.
            lines = log.read().rpartition(b"\n")[0].splitlines()
        # Parsing is dear; most lines are somebody else's.
        wanted = (json.loads(line) for line in lines if user.encode() in line)
        return [
            _parse(line)
            for line in wanted
            if line["user"]["username"] == user
            and line["stage"] == "ResponseComplete"
            and line["verb"] != "watch"
        ]


def count_by_kind(requests: Iterable[Request]) -> dict[str, int]:
    """Requests by verb and resource, the most frequent first."""
    counted = Counter(f"{request.verb} {request.resource}" for request in requests)
    return dict(counted.most_common())


def _parse(line: dict[str, Any]) -> Request:
    target = line.get("objectRef", {})
    resource, subresource = target.get("resource", ""), target.get("subresource", "")
    return Request(
        user=line["user"]["username"],
        verb=line["verb"],
        resource=f"{resource}/{subresource}" if subresource else resource or line["requestURI"],
        namespace=target.get("namespace", ""),
        name=target.get("name", ""),
        code=int(line.get("responseStatus", {}).get("code", 0)),
        at=datetime.fromisoformat(line["stageTimestamp"]).timestamp(),
    )
