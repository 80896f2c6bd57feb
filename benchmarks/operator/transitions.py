"""What a user saw a job go through: the changes of its phase, its reason and the outcomes of its attempts."""

from __future__ import annotations

from collections import Counter

from benchmarks.operator.api import JsonObject
from benchmarks.operator.watcher import Watcher
from finetune_api import PLURAL


class Transitions:
    """Counts every job's transitions as they are seen."""

    def __init__(self, watcher: Watcher) -> None:
        self._last: dict[tuple[str, str], tuple[object, ...]] = {}
        self._counted: Counter[tuple[str, str]] = Counter()
        watcher.listen(PLURAL, self._on_job)

    def count(self, namespace: str, name: str) -> int:
        """How many transitions a job has made, its first status included."""
        return self._counted[namespace, name]

    def _on_job(self, _: str, body: JsonObject) -> None:
        key = (body["metadata"]["namespace"], body["metadata"]["name"])
        status = body.get("status", {})
        state = (
            status.get("phase"),
            status.get("reason"),
            *((each["stage"], each["number"], each["outcome"]) for each in status.get("attempts", ())),
        )
        if "phase" in status and state != self._last.get(key):
            self._counted[key] += 1
            self._last[key] = state
