"""Many jobs fail in the same second, as when a store goes down: they come back spread, and writes stay bounded."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest

from devcluster import ControlPlane
from tests.integration.operator.api_client import Api, wait_until
from tests.integration.operator.audit import Write, read_writes
from tests.integration.operator.kubelet import End
from tests.integration.operator.nodes import StandInNodes
from tests.integration.operator.process import OperatorProcess
from tests.integration.operator.scripted_kubelet import GOOD_ENDS, Part, Script, ScriptedKubelet
from tests.integration.operator.steps import apply_job

# C-6: beside events and progress, in the whole life of a job.
MAX_WRITES = 14
MAX_EVENTS = 14
DELAY_SECONDS = 5
STORE_IS_DOWN = End(20, message={"reason": "StorageUnavailable", "message": "The store is down."})


def play(part: Part) -> Script:
    """The first attempt is up when the store goes down; the second one works."""
    return Script(STORE_IS_DOWN, run_seconds=None) if part.attempt == 1 else Script(GOOD_ENDS[part.stage])


def fail_together(api: Api, control_plane: ControlPlane, operator: OperatorProcess, count: int) -> None:
    """Run `count` jobs through the outage to their good end, and judge the operator's writes."""
    names = [f"bot-{index}" for index in range(count)]
    with (
        operator.restarted_with(FINETUNE_RESTART_DELAY_SECONDS=str(DELAY_SECONDS)),
        ScriptedKubelet(api, play) as kubelet,
        ThreadPoolExecutor(4) as pool,
    ):
        list(pool.map(lambda name: apply_job(api, name, stopAfter="Prepare"), names))
        wait_for_phase(api, "Preparing", count, 60 + count / 2)
        kubelet.end_all()
        wait_for_phase(api, "Succeeded", count, 60 + count / 2)
    writes = list(read_writes(control_plane, api.namespace))
    check_spread(writes, names)
    check_bounds(writes, names)


def wait_for_phase(api: Api, phase: str, count: int, seconds: float) -> None:
    """Wait until all jobs are in one phase."""
    wait_until(
        lambda: count_phases(api)[phase] == count, seconds, lambda: f"{phase}; {count_phases(api)}", 0.5
    )


def count_phases(api: Api) -> Counter[str]:
    """How many jobs are in which phase."""
    jobs = api.list_objects("apis/finetune.dev/v1alpha1", "finetunejobs")
    return Counter(job.get("status", {}).get("phase", "") for job in jobs)


def check_spread(writes: list[Write], names: list[str]) -> None:
    """No attempt is early, and they do not come in one burst: jitter spreads them over a fifth of the delay."""
    again = [
        datetime.fromisoformat(each.time)
        for each in writes
        if each.made("jobs") and each.name.endswith("prepare-2")
    ]
    assert len(again) == len(names)
    assert (max(again) - min(again)).total_seconds() >= DELAY_SECONDS * 0.2 * 0.5


def check_bounds(writes: list[Write], names: list[str]) -> None:
    """Each job's writes are within the bar, and none was refused and repeated without end."""
    events = [each for each in writes if each.resource == "events"]
    others = Counter(owner(each, names) for each in writes if each.resource != "events")
    assert len(events) <= MAX_EVENTS * len(names)
    others.pop("", None)  # The CA bundle belongs to the namespace.
    worst, most = others.most_common(1)[0]
    assert most <= MAX_WRITES, (
        f"{most} writes for {worst}: {[each for each in writes if owner(each, names) == worst]}"
    )
    refused = [each for each in writes if each.code >= 400]
    assert len(refused) <= len(names), refused[:10]


def owner(write: Write, names: list[str]) -> str:
    """The job that a write is about."""
    stem = "-".join(write.name.split("-")[:2])
    return stem if stem in set(names) else ""


def test_many_jobs_that_fail_together_come_back_spread(
    api: Api, control_plane: ControlPlane, operator: OperatorProcess, nodes: StandInNodes
) -> None:
    fail_together(api, control_plane, operator, 60)


@pytest.mark.long_fault
@pytest.mark.timeout(1800)
def test_a_thousand_jobs_that_fail_together_come_back_spread(
    api: Api, control_plane: ControlPlane, operator: OperatorProcess, nodes: StandInNodes
) -> None:
    fail_together(api, control_plane, operator, 1000)
