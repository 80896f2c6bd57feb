"""The operator is SIGKILLed at every named point between two writes: each attempt still has exactly one Job.

The points are finetune_operator.crash_points: the operator kills itself when it comes to one for the n-th time.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

import pytest

from devcluster import ControlPlane
from finetune_api import PLURAL
from finetune_operator.crash_points import CRASH_POINTS
from tests.integration.operator.api_client import CORE, FINETUNE, Api, wait_until
from tests.integration.operator.audit import read_writes
from tests.integration.operator.kubelet import End
from tests.integration.operator.nodes import PARKING, StandInNodes
from tests.integration.operator.process import OperatorProcess
from tests.integration.operator.scripted_kubelet import GOOD_ENDS, Part, Script, ScriptedKubelet
from tests.integration.operator.steps import apply_job, child_jobs, delete_job

FIRST_FAILS = End(20, message={"reason": "StorageUnavailable", "message": "The store is down."})
PER_SECONDS = 60


def name_of(point: str) -> str:
    """A job's name for `before-job:2`."""
    return f"bot-{point.replace(':', '-')}"


def play(part: Part) -> Script:
    """Training fails once with a message, so that a restart is among what is interrupted; all else ends well."""
    if (part.stage, part.attempt) == ("train", 1):
        return Script(FIRST_FAILS if part.rank == 0 else End(22), run_seconds=0.1)
    return Script(GOOD_ENDS[part.stage], run_seconds=0.1)


def crash_at_each(api: Api, operator: OperatorProcess, points: Sequence[str]) -> None:
    """A new job and a crash for each point; the start that leads to the next crash is the recovery from the last."""
    operator.kill()
    for point in points:
        apply_job(api, name_of(point), parallelism__nodes=2, deletionPolicy="Delete")
        operator.start_to_crash(point)
        operator.wait_for_crash(PER_SECONDS)
    operator.start()


def check_jobs(api: Api, control_plane: ControlPlane, points: Sequence[str]) -> None:
    """Every job has run each attempt by one Job, says so, and leaves no orphan."""
    for point in points:
        status = api.wait_for_status(name_of(point), PER_SECONDS, phase="Succeeded")
        assert [(each["stage"], each["number"], each["outcome"]) for each in status["attempts"]] == [
            ("prepare", 1, "Succeeded"),
            ("train", 1, "Failed"),
            ("train", 2, "Succeeded"),
            ("export", 1, "Succeeded"),
        ], f"{point}: {status['attempts']}"
        assert (status["restarts"], status["preemptions"]) in {(0, 0), (1, 0)}
    made = Counter(write.name for write in read_writes(control_plane, api.namespace) if write.made("jobs"))
    # The answer to a request of a process that dies may not come into the log; the attempts say that its Job was there.
    assert set(made.values()) == {1}, made.most_common(3)
    kept = {f"{name_of(point)}-{stage}" for point in points for stage in ("train-1", "export-1")}
    wait_until(
        lambda: set(child_jobs(api)) == kept,
        PER_SECONDS,
        lambda: f"end of {set(child_jobs(api)) - kept}, {kept - set(child_jobs(api))} being there",
    )
    # The headless Service of a gang stands as long as its Job: that of the failed attempt, which people may look at.
    gangs = {f"{name_of(point)}-train-1" for point in points}
    wait_until(
        lambda: {each["metadata"]["name"] for each in api.list_objects(CORE, "services")} == gangs,
        PER_SECONDS,
        lambda: f"Services of kept gangs only; there are {api.list_objects(CORE, 'services')}",
    )


def test_a_kill_at_any_point_leaves_one_job_an_attempt(
    api: Api, control_plane: ControlPlane, operator: OperatorProcess, nodes: StandInNodes
) -> None:
    with ScriptedKubelet(api, play, node=PARKING):
        crash_at_each(api, operator, CRASH_POINTS)
        check_jobs(api, control_plane, CRASH_POINTS)


def test_a_kill_while_jobs_are_removed_loses_none(
    api: Api, operator: OperatorProcess, nodes: StandInNodes
) -> None:
    points = (
        "before-delete",
        "after-delete",
        "before-job",
        "after-job",
        "before-finalizer",
        "after-finalizer",
    )

    def run_on(part: Part) -> Script:
        return Script(GOOD_ENDS[part.stage], run_seconds=0.1 if part.stage == "cleanup" else None)

    with ScriptedKubelet(api, run_on, node=PARKING):
        for point in points:
            apply_job(api, name_of(point), deletionPolicy="Delete")
        for point in points:
            api.wait_for_status(name_of(point), phase="Preparing")
        operator.kill()
        for point in points:
            delete_job(api, name_of(point))
            operator.start_to_crash(point)
            operator.wait_for_crash(PER_SECONDS)
        operator.start()

        wait_until(
            lambda: api.list_objects(FINETUNE, PLURAL) == [],
            PER_SECONDS,
            lambda: f"end; there are {left(api)}",
        )
        cleaners = sorted(f"{name_of(point)}-cleanup-1" for point in points)
        wait_until(
            lambda: child_jobs(api) == cleaners,
            PER_SECONDS,
            lambda: f"one cleanup Job each; there are {child_jobs(api)}",
        )


def left(api: Api) -> list[str]:
    """Names of the FineTuneJobs that are still there."""
    return [each["metadata"]["name"] for each in api.list_objects(FINETUNE, PLURAL)]


@pytest.mark.long_fault
def test_a_kill_at_any_point_at_any_time_leaves_one_job_an_attempt(
    api: Api, control_plane: ControlPlane, operator: OperatorProcess, nodes: StandInNodes
) -> None:
    points = [f"{point}:{count}" for point, count in itertools.product(CRASH_POINTS, (1, 2, 3, 5))]
    # A finalizer is written once a job; the other points come several times.
    points = [each for each in points if "finalizer" not in each or each.endswith(":1")]
    with ScriptedKubelet(api, play, node=PARKING):
        crash_at_each(api, operator, points)
        check_jobs(api, control_plane, points)
