"""The operator is uninstalled while a job trains, and installed again: nothing hangs meanwhile, and the job goes on."""

from __future__ import annotations

from examples.quickstart.environment import Environment
from examples.quickstart.installation import NAMESPACE
from finetune_api.names import FINALIZER
from tests.e2e import installation
from tests.e2e.deadlines import wait_until
from tests.e2e.evidence import Evidence
from tests.e2e.jobs import NO_MERGE, PATIENCE, Jobs, attempts_of


def test_uninstalling_leaves_no_finalizer_and_installing_again_goes_on(
    jobs: Jobs, environment: Environment, evidence: Evidence
) -> None:
    jobs.apply("dry", deletionPolicy="Delete", stopAfter="Prepare")
    jobs.apply("runs", deletionPolicy="Delete", training__maxSteps=200, **NO_MERGE)
    run = jobs.wait_for("dry", "Succeeded")["outputs"]["runURI"]
    jobs.wait_until("runs", "training", lambda s: s.get("progress", {}).get("step", 0) > 0)
    assert finalizers(jobs, "dry") == finalizers(jobs, "runs") == [FINALIZER]
    evidence.collect(environment, NAMESPACE)

    installation.uninstall(environment)

    assert finalizers(jobs, "dry") == finalizers(jobs, "runs") == []
    jobs.kubectl("delete", "ftj", "dry", "--wait", "--timeout=30s")
    assert jobs.bucket.keys(run), "nobody was there to remove it"
    wait_until(
        lambda: jobs.pods("runs")[0]["status"]["phase"], lambda p: p == "Succeeded", "its pod has ended", 120
    )

    installation.install(environment)
    status = jobs.wait_for("runs", "Succeeded")

    assert [(each["number"], each["outcome"]) for each in attempts_of(status)] == [(1, "Succeeded")]
    assert finalizers(jobs, "runs") == [FINALIZER]
    jobs.kubectl("delete", "ftj", "runs", "--wait", PATIENCE)
    assert jobs.bucket.keys(status["outputs"]["runURI"]) == set()


def finalizers(jobs: Jobs, name: str) -> list[str]:
    found: list[str] = jobs.read(name)["metadata"].get("finalizers", [])
    return found
