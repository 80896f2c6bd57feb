"""One of two nodes stops answering in the middle of training: its job goes on elsewhere, and what wakes up later does no harm."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from examples.quickstart.environment import Environment
from tests.e2e import installation
from tests.e2e.deadlines import wait_until
from tests.e2e.jobs import NO_MERGE, Jobs, JsonObject, attempts_of
from tests.e2e.nodes import NODES, frozen
from tests.e2e.side_by_side import OpenJobs

STAYS, GOES = NODES
# Enough for the node to go away in the middle, on a machine that has nothing else to do.
STEPS = 300
# Kubernetes evicts from a silent node after five minutes, unless the pod says otherwise.
TOLERATIONS = [
    {
        "key": f"node.kubernetes.io/{taint}",
        "operator": "Exists",
        "effect": "NoExecute",
        "tolerationSeconds": 5,
    }
    for taint in ("unreachable", "not-ready")
]


@dataclass(frozen=True)
class Lost:
    """A job that trained on the node when it went silent, and how to let the node wake up."""

    jobs: Jobs
    checkpoint_step: int
    node: ExitStack


@pytest.fixture(scope="module")
def lost(open_jobs: OpenJobs) -> Iterator[Lost]:
    with open_jobs() as jobs, ExitStack() as nodes:
        jobs.kubectl("cordon", STAYS.name)
        nodes.callback(jobs.kubectl, "uncordon", STAYS.name)
        settings = {"training__maxSteps": STEPS, "checkpoints__everySteps": 20, **NO_MERGE}
        jobs.apply("lost", checkpoints__gracePeriodSeconds=30, resources__tolerations=TOLERATIONS, **settings)
        step = jobs.wait_for_checkpoint("lost")["checkpoint"]["step"]
        jobs.kubectl("cordon", GOES.name)
        nodes.callback(jobs.kubectl, "uncordon", GOES.name)
        nodes.enter_context(frozen(GOES))
        jobs.kubectl("uncordon", STAYS.name)
        jobs.apply("undisturbed", **settings)
        yield Lost(jobs, step, nodes)


@pytest.mark.usefixtures("lost")
def test_killing_and_upgrading_the_operator_in_every_stage_changes_nothing(
    jobs: Jobs, environment: Environment
) -> None:
    jobs.apply("orphan", training__maxSteps=100)
    jobs.wait_until("orphan", "begun", lambda s: bool(s.get("attempts")))
    installation.kill(environment)
    jobs.wait_until("orphan", "training", lambda s: s["phase"] == "Training")
    installation.install(environment, "log.level=DEBUG")
    installation.kill(environment)
    jobs.wait_until("orphan", "exporting", lambda s: s["phase"] == "Exporting")
    installation.kill(environment)

    status = jobs.wait_for("orphan", "Succeeded")

    assert [(a["stage"], a["number"], a["outcome"]) for a in status["attempts"]] == [
        ("prepare", 1, "Succeeded"),
        ("train", 1, "Succeeded"),
        ("export", 1, "Succeeded"),
    ]
    assert len(jobs.pods("orphan")) <= 1
    assert {line["attempt"] for line in jobs.metrics(status)} == {1}


def test_a_job_whose_node_no_longer_answers_goes_on_elsewhere(lost: Lost) -> None:
    status = lost.jobs.wait_until("lost", "in its second attempt", is_in_second_attempt, 300)
    (old,) = lost.jobs.pods("lost", attempt=1)
    assert old["metadata"]["deletionTimestamp"], "a dead node never confirms: the old pod stands"

    status = lost.jobs.wait_for("lost", "Succeeded")

    first, second = attempts_of(status)
    assert (first["outcome"], first["reason"], first["node"]) == ("Failed", "NodeLost", GOES.name)
    assert (second["outcome"], second["node"]) == ("Succeeded", STAYS.name)
    lines = lost.jobs.metrics(status)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert STEPS > next(line["step"] for line in lines if line["attempt"] == 2) > lost.checkpoint_step
    assert first["stepsLost"] == status["stepsLost"] >= 0
    undisturbed = lost.jobs.wait_for("undisturbed", "Succeeded")
    assert status["outputs"]["manifestDigest"] == undisturbed["outputs"]["manifestDigest"]
    assert [line["loss"] for line in lines] == [line["loss"] for line in lost.jobs.metrics(undisturbed)]


def is_in_second_attempt(status: JsonObject) -> bool:
    return len(attempts_of(status)) == 2


def test_a_pod_that_wakes_up_with_its_node_changes_nothing_any_more(lost: Lost) -> None:
    jobs, before = lost.jobs, lost.jobs.status("lost")
    content = read_run(jobs, before)

    lost.node.close()

    wait_until(lambda: is_ready(jobs, GOES.name), bool, f"{GOES.name} is Ready again", 60)
    wait_until(
        lambda: jobs.pods("lost", attempt=1),
        lambda pods: not pods,
        "the pod of the first attempt is gone",
        90,
    )
    assert read_run(jobs, before) == content
    assert jobs.status("lost") == before


def read_run(jobs: Jobs, status: JsonObject) -> dict[str, bytes]:
    """Everything in the run's folder but the logs, which every incarnation has for itself."""
    keys = jobs.bucket.keys(status["outputs"]["runURI"])
    return {key: jobs.bucket.read(jobs.bucket.uri(key)) for key in keys if "/logs/" not in key}


def is_ready(jobs: Jobs, node: str) -> bool:
    conditions = jobs.read_node(node)["status"]["conditions"]
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
