"""spec.suspend at every moment: pods get SIGTERM, nothing runs while it is true, and the run goes on where it was.

A job is called suspended only when no pod of it runs any more.
"""

from __future__ import annotations

import pytest

from tests.integration.operator.api_client import CORE, Api, wait_until
from tests.integration.operator.kubelet import EXPORTED, PREPARED, TRAINED, End, Kubelet, job_is_gone
from tests.integration.operator.nodes import PARKING
from tests.integration.operator.process import OperatorProcess
from tests.integration.operator.steps import (
    apply_job,
    attempts,
    child_jobs,
    condition,
    finish_from_training,
    reach_preparing,
    reach_train_job,
    reach_training,
    saved,
)


def wait_until_suspended(api: Api) -> None:
    """The job stands still and says so."""
    status = api.wait_for_status("bot", phase="Suspended", reason="Suspended")
    assert condition(status, "Suspended") == ("True", "Suspended")
    assert condition(status, "Running")[0] == "False"
    assert condition(status, "Finished")[0] == "False"


def test_a_job_made_suspended_starts_nothing_until_it_may(api: Api, kubelet: Kubelet) -> None:
    apply_job(api, suspend=True)
    wait_until_suspended(api)
    assert child_jobs(api) == []

    api.patch_spec("bot", suspend=False)

    reach_preparing(api, kubelet)
    assert condition(api.status("bot"), "Suspended") == ("False", "NotSuspended")


def test_a_pod_that_has_not_started_is_removed_and_made_anew_on_resume(api: Api, kubelet: Kubelet) -> None:
    apply_job(api)
    kubelet.pod_of("bot-prepare-1")

    api.patch_spec("bot", suspend=True)
    wait_until_suspended(api)
    job_is_gone(api, "bot-prepare-1")
    api.patch_spec("bot", suspend=False)

    kubelet.start("bot-prepare-2")
    status = api.wait_for_status("bot", phase="Preparing", restarts=0)
    assert attempts(api) == [("prepare", 1, "Stopped", "Suspended"), ("prepare", 2, "Running", None)]
    assert status["attempts"][0]["counted"] is False


def test_training_gets_sigterm_saves_and_goes_on_in_the_next_attempt(api: Api, kubelet: Kubelet) -> None:
    apply_job(api)
    reach_training(api, kubelet, node=PARKING)

    api.patch_spec("bot", suspend=True)
    status = api.wait_for_status("bot", reason="Suspending")
    assert status["phase"] == "Training", "its pod still runs"
    assert condition(status, "Running")[0] == "True"
    assert condition(status, "Suspended") == ("False", "Suspending")

    kubelet.obey_deletion("bot-train-1", End(22, message=saved(40)))
    wait_until_suspended(api)
    assert attempts(api)[-1] == ("train", 1, "Stopped", "Suspended")
    assert api.status("bot")["checkpoint"]["step"] == 40
    job_is_gone(api, "bot-train-1")
    assert child_jobs(api, "train") == []

    api.patch_spec("bot", suspend=False)
    kubelet.start("bot-train-2")
    api.wait_for_status("bot", phase="Training", restarts=0)
    finish_from_training(api, kubelet, attempt=2)
    for reason in ("Suspended", "Unsuspended"):
        api.wait_for_event("bot", "Normal", reason)


def test_a_pod_that_is_deleted_has_its_whole_grace_period(api: Api, kubelet: Kubelet) -> None:
    apply_job(api)
    reach_training(api, kubelet, node=PARKING)
    grace = kubelet.pod_of("bot-train-1")["spec"]["terminationGracePeriodSeconds"]

    api.patch_spec("bot", suspend=True)

    pod = wait_until(
        lambda: p if "deletionTimestamp" in (p := kubelet.pod_of("bot-train-1"))["metadata"] else None
    )
    assert pod["metadata"]["deletionGracePeriodSeconds"] == grace
    kubelet.obey_deletion("bot-train-1")
    wait_until_suspended(api)


def test_resuming_while_its_pods_still_save_waits_for_them(api: Api, kubelet: Kubelet) -> None:
    apply_job(api)
    reach_training(api, kubelet, node=PARKING)
    api.patch_spec("bot", suspend=True)
    api.wait_for_status("bot", reason="Suspending")

    api.patch_spec("bot", suspend=False)
    api.wait_for_status("bot", observedGeneration=3)
    assert child_jobs(api, "train") == ["bot-train-1"], "two attempts must not run side by side"

    kubelet.obey_deletion("bot-train-1", End(22, message=saved(40)))
    kubelet.start("bot-train-2")
    api.wait_for_status("bot", phase="Training", restarts=0)


def test_a_stage_that_ends_well_while_it_is_suspended_is_done(api: Api, kubelet: Kubelet) -> None:
    apply_job(api)
    reach_training(api, kubelet, node=PARKING)
    api.patch_spec("bot", suspend=True)
    api.wait_for_status("bot", reason="Suspending")

    kubelet.obey_deletion("bot-train-1", End(0, message=TRAINED))
    wait_until_suspended(api)
    assert attempts(api)[-1] == ("train", 1, "Succeeded", None)

    api.patch_spec("bot", suspend=False)
    kubelet.succeed("bot-export-1", EXPORTED)
    api.wait_for_status("bot", phase="Succeeded")


def test_a_job_between_two_attempts_stands_still(
    api: Api, kubelet: Kubelet, operator: OperatorProcess
) -> None:
    apply_job(api)
    reach_training(api, kubelet)
    with operator.restarted_with(FINETUNE_RESTART_DELAY_SECONDS="3600"):
        kubelet.fail("bot-train-1", 20)
        api.wait_for_status("bot", phase="Restarting")
        api.patch_spec("bot", suspend=True)
        wait_until_suspended(api)

        api.patch_spec("bot", suspend=False)
        api.wait_for_status("bot", phase="Restarting")


@pytest.mark.parametrize("stage", ["prepare", "export"])
def test_the_other_stages_are_suspended_too(api: Api, kubelet: Kubelet, stage: str) -> None:
    apply_job(api)
    if stage == "export":
        reach_training(api, kubelet)
        kubelet.succeed("bot-train-1", TRAINED)
    kubelet.start(f"bot-{stage}-1", node=PARKING)
    api.wait_for_status("bot", phase="Preparing" if stage == "prepare" else "Exporting")

    api.patch_spec("bot", suspend=True)
    kubelet.obey_deletion(f"bot-{stage}-1", End(22))
    wait_until_suspended(api)

    api.patch_spec("bot", suspend=False)
    kubelet.start(f"bot-{stage}-2")
    api.wait_for_status("bot", phase="Preparing" if stage == "prepare" else "Exporting", restarts=0)


def test_an_operator_that_dies_meanwhile_finishes_the_suspension(
    api: Api, kubelet: Kubelet, operator: OperatorProcess
) -> None:
    apply_job(api)
    reach_training(api, kubelet, node=PARKING)
    with operator.down():
        api.patch_spec("bot", suspend=True)
    wait_until(lambda: "deletionTimestamp" in kubelet.pod_of("bot-train-1")["metadata"])
    with operator.down():
        kubelet.obey_deletion("bot-train-1", End(22, message=saved(40)))

    wait_until_suspended(api)
    assert attempts(api)[-1] == ("train", 1, "Stopped", "Suspended")


def test_a_finished_job_stays_finished(api: Api, kubelet: Kubelet) -> None:
    apply_job(api)
    kubelet.fail("bot-prepare-1", 11, message={"reason": "DataError", "message": "Row 7 has no messages."})
    api.wait_for_status("bot", phase="Failed")

    api.patch_spec("bot", suspend=True)

    status = api.wait_for_status("bot", observedGeneration=2)
    assert (status["phase"], status["reason"]) == ("Failed", "DataError")


def test_a_gang_is_suspended_as_a_whole(api: Api, kubelet: Kubelet) -> None:
    apply_job(api, parallelism__nodes=2)
    reach_train_job(api, kubelet)
    kubelet.start_all("bot-train-1", 2, PARKING)
    api.wait_for_status("bot", phase="Training")

    api.patch_spec("bot", suspend=True)
    kubelet.obey_deletion("bot-train-1", End(22, message=saved(40)), rank=0)
    api.wait_for_status("bot", reason="Suspending")
    kubelet.obey_deletion("bot-train-1", End(22), rank=1)

    wait_until_suspended(api)
    wait_until(lambda: api.list_objects(CORE, "services") == [], what=lambda: "end of the Service")
    assert api.read(CORE, "configmaps", "bot-train-1") is None
    api.patch_spec("bot", suspend=False)
    kubelet.pods_of("bot-train-2", 2)


def test_the_prepared_data_are_kept_over_a_suspension(api: Api, kubelet: Kubelet) -> None:
    apply_job(api)
    kubelet.succeed("bot-prepare-1", PREPARED)
    kubelet.pod_of("bot-train-1")
    api.patch_spec("bot", suspend=True)
    wait_until_suspended(api)
    assert condition(api.status("bot"), "Prepared") == ("True", "Prepared")

    api.patch_spec("bot", suspend=False)

    kubelet.start("bot-train-2")
    api.wait_for_status("bot", phase="Training")
