"""What happens to jobs while the operator is down is handled when it is there again, all of it at once."""

from __future__ import annotations

from tests.integration.operator.api_client import BATCH, FINETUNE, Api, wait_until
from tests.integration.operator.kubelet import PREPARED, End, Kubelet, job_is_there
from tests.integration.operator.nodes import PARKING
from tests.integration.operator.process import OperatorProcess
from tests.integration.operator.steps import (
    apply_job,
    attempts,
    child_jobs,
    delete_job,
    reach_preparing,
    reach_training,
    saved,
)


def test_jobs_made_changed_and_deleted_meanwhile_are_handled_at_start(
    api: Api, kubelet: Kubelet, operator: OperatorProcess
) -> None:
    for name in ("deleted", "suspended", "ended", "broken", "childless", "evicted"):
        apply_job(api, name)
    apply_job(api, "edited", resources__prepare={"memory": "900Ti"})
    apply_job(api, "retried")
    kubelet.fail("retried-prepare-1", 11)
    api.wait_for_status("retried", phase="Failed")
    for name in ("deleted", "suspended", "ended", "broken", "childless"):
        reach_preparing(api, kubelet, name, PARKING if name == "suspended" else None)
    reach_training(api, kubelet, "evicted", PARKING)
    job_is_there(api, "edited-prepare-1")

    with operator.down():
        apply_job(api, "made")
        apply_job(api, "made-and-gone")
        delete_job(api, "made-and-gone")
        delete_job(api, "deleted")
        api.patch_spec("suspended", suspend=True)
        api.patch_spec("retried", retry=1)
        api.patch_spec("edited", resources={"prepare": {"memory": "8Gi"}})
        kubelet.succeed("ended-prepare-1", PREPARED)
        kubelet.fail("broken-prepare-1", 20)
        api.delete(BATCH, "jobs", "childless-prepare-1")
        pod = kubelet.pod_of("evicted-train-1")["metadata"]["name"]
        api.send("POST", f"{api.path('api/v1', 'pods', pod)}/eviction", {"metadata": {"name": pod}})
        kubelet.obey_deletion("evicted-train-1", End(22, message=saved(40)))

    job_is_there(api, "made-prepare-1")
    kubelet.obey_deletion("suspended-prepare-1", End(22))
    api.wait_for_status("suspended", phase="Suspended")
    job_is_there(api, "retried-prepare-2")
    job_is_there(api, "edited-prepare-2")
    job_is_there(api, "ended-train-1")
    job_is_there(api, "broken-prepare-2")
    job_is_there(api, "childless-prepare-2")
    job_is_there(api, "evicted-train-2")
    wait_until(
        lambda: (
            attempts(api, "childless")
            == [("prepare", 1, "Failed", "Deleted"), ("prepare", 2, "Running", None)]
        )
    )
    # Its pod is gone with everything that it left, so nobody can know that it had saved: it is counted.
    wait_until(lambda: api.status("evicted")["restarts"] == 1)
    assert api.read(FINETUNE, "finetunejobs", "made-and-gone") is None
    wait_until(
        lambda: not [each for each in child_jobs(api) if each.startswith(("deleted-", "made-and-gone-"))], 90
    )


def test_a_job_that_was_deleted_and_made_anew_meanwhile_is_a_new_run(
    api: Api, kubelet: Kubelet, operator: OperatorProcess
) -> None:
    first = apply_job(api)
    reach_preparing(api, kubelet)
    with operator.down():
        delete_job(api)
        wait_until(lambda: api.read(FINETUNE, "finetunejobs", "bot") is None)
        second = apply_job(api)

    def owner() -> str | None:
        job = api.read(BATCH, "jobs", "bot-prepare-1")
        return job["metadata"]["ownerReferences"][0]["uid"] if job else None

    wait_until(lambda: owner() == second["metadata"]["uid"], 90, lambda: f"new child; owner is {owner()}")
    assert first["metadata"]["uid"] != second["metadata"]["uid"]
    assert wait_until(lambda: attempts(api))[0][:2] == ("prepare", 1)
