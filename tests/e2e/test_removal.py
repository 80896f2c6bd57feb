"""What deleting a FineTuneJob, or its namespace, does to pods that run and to what they wrote."""

from __future__ import annotations

from tests.e2e.jobs import PATIENCE, Jobs
from tests.e2e.side_by_side import side_by_side


@side_by_side
def test_deleting_a_running_job_empties_its_folder_only_where_the_policy_says_so(jobs: Jobs) -> None:
    shared = jobs.bucket.uri(f"models/{jobs.namespace}/shared")
    for name, policy in (("kept", "Retain"), ("gone", "Delete")):
        jobs.apply(
            name,
            output__uri=shared,
            deletionPolicy=policy,
            training__maxSteps=2000,
            checkpoints__everySteps=1500,
        )
    runs = {name: run_of(jobs, name) for name in ("kept", "gone")}

    jobs.kubectl("delete", "ftj", "kept", "gone", "--wait", PATIENCE)

    for name in ("kept", "gone"):
        for kind in ("jobs", "pods"):
            selector = f"finetune.dev/job={name},finetune.dev/stage!=cleanup"
            jobs.kubectl("wait", "--for=delete", kind, "-l", selector, PATIENCE)
    assert jobs.bucket.keys(runs["gone"]) == set()
    assert any("/checkpoints/" in key for key in jobs.bucket.keys(runs["kept"])), "SIGTERM made it save"


def run_of(jobs: Jobs, name: str) -> str:
    """The run's folder, once it trains."""
    status = jobs.wait_until(name, "training", lambda s: s.get("progress", {}).get("step", 0) > 2)
    uri = str(status["outputs"]["runURI"])
    assert jobs.bucket.keys(uri)
    return uri


@side_by_side
def test_a_namespace_goes_with_a_running_job_whose_store_should_have_been_emptied(jobs: Jobs) -> None:
    jobs.apply("inside", deletionPolicy="Delete", training__maxSteps=2000, checkpoints__everySteps=1500)
    run = run_of(jobs, "inside")

    jobs.kubectl("delete", "namespace", jobs.namespace, "--wait", PATIENCE)

    assert jobs.bucket.keys(run), "there was no namespace left to run the removal in"
