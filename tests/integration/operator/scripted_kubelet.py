"""Plays the pods of a whole namespace by scripts, as a kubelet plays containers: for tests of many jobs at once."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Self

from finetune_api import names
from finetune_api.names import Stage
from tests.integration.operator.api_client import CORE, Api, JsonObject, RequestRefused
from tests.integration.operator.kubelet import (
    EXPORTED,
    PREPARED,
    SAVED,
    TRAINED,
    End,
    bind,
    rank_of,
    remove,
    write_end,
    write_running,
)

CONFLICT = 409
WORKERS = 4


@dataclass(frozen=True)
class Script:
    """What becomes of a pod. None stands for never."""

    end: End = field(default_factory=End)
    # From when so many ranks of the attempt run: those of a gang wait for one another.
    run_seconds: float | None = 0.0
    ranks: int = 1
    # What SIGTERM does, and after how long; never, on a node that is dead.
    stop: End = SAVED
    stop_seconds: float | None = 0.0


@dataclass(frozen=True)
class Part:
    """Which pod is to be played."""

    job: str
    stage: Stage
    attempt: int
    rank: int
    node: str | None = None


GOOD_ENDS: Mapping[Stage, End] = {
    Stage.PREPARE: End(message=PREPARED),
    Stage.TRAIN: End(message=TRAINED),
    Stage.EXPORT: End(message=EXPORTED),
    Stage.CLEANUP: End(message={"reason": "CleanedUp", "message": "The run's folder is removed."}),
}
Choose = Callable[[Part], Script | None]


def succeed(part: Part) -> Script:
    """Every stage ends well at once."""
    return Script(GOOD_ENDS[part.stage])


class ScriptedKubelet:
    """Follows the pods of a namespace and plays each by the script that `choose` has for it; None leaves it alone.

    With `node`, it binds pods to that node first, as a scheduler would; without, it plays those that have a node or
    were never given one.
    """

    def __init__(
        self, api: Api, choose: Choose, *, node: str | None = None, bound_only: bool = False
    ) -> None:
        self._api = api
        self._choose = choose
        self._node = node
        self._stop = threading.Event()
        self._clock = _Clock(self._failed)
        self._started: dict[str, Script] = {}
        self._running: dict[str, tuple[JsonObject, Script]] = {}
        self._waiting: dict[tuple[str, Stage, int], list[tuple[JsonObject, Script]]] = {}
        self._lock = threading.Lock()
        self._told_to_go: set[str] = set()
        self._ended: set[str] = set()
        self._failures: list[BaseException] = []

    def __enter__(self) -> Self:
        self._clock.start()
        threading.Thread(target=self._follow, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._clock.stop()
        if error is None and self._failures:
            raise self._failures[0]

    def end_all(self) -> None:
        """Let every pod that runs end now, as its script says."""
        for pod, script in tuple(self._running.values()):
            self._clock.call_after(0, partial(self._finish, pod, script.end))

    def _failed(self, error: BaseException) -> None:
        self._failures.append(error)

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                for event in self._api.watch(self._api.path(CORE, "pods"), self._stop):
                    self._see(event["type"], event["object"])
            except OSError:
                time.sleep(0.2)  # The API server restarts.
            except BaseException as error:
                self._failed(error)
                raise

    def _see(self, kind: str, pod: JsonObject) -> None:
        part = part_of(pod)
        if kind == "DELETED" or part is None:
            return
        uid = pod["metadata"]["uid"]
        if uid not in self._started:
            self._begin(pod, part)
        script = self._started.get(uid)
        if script is not None and "deletionTimestamp" in pod["metadata"] and uid not in self._told_to_go:
            self._told_to_go.add(uid)
            if script.stop_seconds is not None:
                self._clock.call_after(script.stop_seconds, lambda: self._obey(pod, script))

    def _begin(self, pod: JsonObject, part: Part) -> None:
        script = self._choose(part)
        if script is None or "deletionTimestamp" in pod["metadata"]:
            return
        self._started[pod["metadata"]["uid"]] = script
        self._clock.call_after(0, lambda: self._run(pod, part, script))

    def _run(self, pod: JsonObject, part: Part, script: Script) -> None:
        if self._node is not None and "nodeName" not in pod["spec"]:
            bind(self._api, pod, self._node)
        write_running(self._api, pod)
        self._running[pod["metadata"]["uid"]] = (pod, script)
        for each, its_script in self._complete_gang(pod, part, script):
            if its_script.run_seconds is not None:
                finish = partial(self._finish, each, its_script.end)
                self._clock.call_after(its_script.run_seconds, finish)

    def _complete_gang(self, pod: JsonObject, part: Part, script: Script) -> list[tuple[JsonObject, Script]]:
        """The pods of the attempt if this one completes them, else none."""
        with self._lock:
            gang = self._waiting.setdefault((part.job, part.stage, part.attempt), [])
            gang.append((pod, script))
            if len(gang) < script.ranks:
                return []
            complete = gang.copy()
            gang.clear()
            return complete

    def _finish(self, pod: JsonObject, end: End) -> None:
        uid = pod["metadata"]["uid"]
        if uid not in self._ended and uid not in self._told_to_go:
            self._ended.add(uid)
            self._running.pop(uid, None)
            write_end(self._api, pod, end)

    def _obey(self, pod: JsonObject, script: Script) -> None:
        uid = pod["metadata"]["uid"]
        if uid not in self._ended:
            self._ended.add(uid)
            write_end(self._api, pod, script.stop)
        remove(self._api, pod)


def part_of(pod: JsonObject) -> Part | None:
    """The part of a FineTuneJob's pod; None for any other pod."""
    labels = pod["metadata"].get("labels", {})
    if names.LABEL_STAGE not in labels:
        return None
    return Part(
        labels[names.LABEL_JOB],
        Stage(labels[names.LABEL_STAGE]),
        int(labels[names.LABEL_ATTEMPT]),
        rank_of(pod),
        pod["spec"].get("nodeName"),
    )


class _Clock:
    """Calls functions at their time, several at once."""

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        self._failed = failed
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._is_stopped = False
        self._workers = ThreadPoolExecutor(WORKERS)

    def start(self) -> None:
        threading.Thread(target=self._run, daemon=True).start()

    def stop(self) -> None:
        with self._changed:
            self._is_stopped = True
            self._changed.notify()
        self._workers.shutdown(cancel_futures=True)

    def call_after(self, seconds: float, action: Callable[[], None]) -> None:
        with self._changed:
            heapq.heappush(self._due, (time.monotonic() + seconds, next(self._order), action))
            self._changed.notify()

    def _run(self) -> None:
        with self._changed:
            while not self._is_stopped:
                now = time.monotonic()
                while self._due and self._due[0][0] <= now:
                    self._workers.submit(self._call, heapq.heappop(self._due)[2])
                self._changed.wait(self._due[0][0] - now if self._due else None)

    def _call(self, action: Callable[[], None]) -> None:
        try:
            action()
        except RequestRefused as error:
            # The pod is another one by now, or is being deleted; the next event says what it is.
            if error.code != CONFLICT:
                self._failed(error)
        except OSError:
            if not self._is_stopped:
                self.call_after(0.5, action)
        except BaseException as error:
            self._failed(error)
