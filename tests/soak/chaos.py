"""What is killed, and when: seeded, one disturbance at a time, and everything stands again when the chaos ends."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from enum import StrEnum

from devcluster.cluster import Cluster
from tests.e2e import installation, nodes
from tests.e2e.jobs import Jobs, JsonObject

Say = Callable[[str], None]
_PAUSE_SECONDS = (20.0, 40.0)
_STORE_OUTAGE_SECONDS = (5.0, 30.0)
_APISERVER_OUTAGE_SECONDS = (0.0, 5.0)


class Disturbance(StrEnum):
    """What the chaos does."""

    OPERATOR_KILLED = "operator killed"
    POD_DELETED = "pod deleted"
    CONTAINER_KILLED = "container killed"
    STORE_STOPPED = "store stopped"
    APISERVER_RESTARTED = "apiserver restarted"


_WEIGHTS = {
    Disturbance.OPERATOR_KILLED: 2,
    Disturbance.POD_DELETED: 3,
    Disturbance.CONTAINER_KILLED: 3,
    Disturbance.STORE_STOPPED: 2,
    Disturbance.APISERVER_RESTARTED: 2,
}


class Chaos:
    """Disturbs when its time has come. The seed decides when and what; whom it hits depends on who runs by then."""

    def __init__(self, seed: int, cluster: Cluster, jobs: Jobs, say: Say) -> None:
        self.counts: Counter[str] = Counter()
        self._choice = random.Random(f"{seed}-chaos")
        self._cluster = cluster
        self._jobs = jobs
        self._say = say
        self._next_at = self._choice.uniform(*_PAUSE_SECONDS)
        self._store_back_at: float | None = None

    def tick(self, now: float) -> None:
        """Do what is due. `now`: seconds since the soak began."""
        if self._store_back_at is not None and now >= self._store_back_at:
            self.heal()
        if now >= self._next_at:
            self._next_at = now + self._choice.uniform(*_PAUSE_SECONDS)
            self._disturb(now)

    def heal(self) -> None:
        """Let everything stand again."""
        if self._store_back_at is not None:
            self._store_back_at = None
            self._cluster.object_store.start()
            self._say("store answers again")

    def _disturb(self, now: float) -> None:
        # All numbers are drawn each time, so that what follows does not depend on whom this one finds.
        kind = self._choice.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
        store_seconds = self._choice.uniform(*_STORE_OUTAGE_SECONDS)
        apiserver_seconds = self._choice.uniform(*_APISERVER_OUTAGE_SECONDS)
        whom = self._choice.random()
        told: str | None = ""
        match kind:
            case Disturbance.OPERATOR_KILLED:
                installation.kill(self._jobs.environment)
            case Disturbance.POD_DELETED | Disturbance.CONTAINER_KILLED:
                told = self._hit_pod(kind, whom)
            case Disturbance.STORE_STOPPED:
                if self._store_back_at is not None:
                    return
                self._cluster.object_store.stop()
                self._store_back_at = now + store_seconds
                told = f"for {store_seconds:.0f} s"
            case Disturbance.APISERVER_RESTARTED:
                told = self._restart_apiserver(apiserver_seconds)
        if told is not None:
            self.counts[kind.value] += 1
            self._say(f"{kind.value} {told}".rstrip())

    def _hit_pod(self, kind: Disturbance, whom: float) -> str | None:
        pods = [pod for pod in self._jobs.get("pods", "finetune.dev/job") if is_running(pod)]
        training = [pod for pod in pods if pod["metadata"]["labels"]["finetune.dev/stage"] == "train"]
        candidates = sorted(training or pods, key=lambda pod: str(pod["metadata"]["name"]))
        if not candidates:
            self._say(f"{kind.value}: nobody runs")
            return None
        pod = candidates[int(whom * len(candidates))]["metadata"]
        if kind is Disturbance.POD_DELETED:
            self._jobs.kubectl("delete", "pod", pod["name"], "--wait=false", "--ignore-not-found")
        else:
            try:
                nodes.kill_container(pod["uid"])
            except (ValueError, ProcessLookupError):
                self._say(f"{kind.value}: {pod['name']} had just ended")
                return None
        return f"({pod['name']})"

    def _restart_apiserver(self, seconds: float) -> str:
        plane = self._cluster.control_plane
        began = time.monotonic()
        plane.stop_apiserver()
        try:
            time.sleep(seconds)
        finally:
            plane.start_apiserver()
        return f"(away for {time.monotonic() - began:.1f} s)"


def is_running(pod: JsonObject) -> bool:
    """Whether its container runs, and nobody has told it to go."""
    containers = pod["status"].get("containerStatuses", [])
    return "deletionTimestamp" not in pod["metadata"] and any(
        "running" in each["state"] for each in containers
    )
