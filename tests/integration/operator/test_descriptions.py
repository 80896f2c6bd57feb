"""What a person sees of a job that failed or waits, as golden `kubectl describe` outputs (tests/golden/describe).

Each answers: what failed, where, at which step, whether it was retried and why (not), what to do next. The one of a
lost node is judged where the minute that it takes is waited for (test_patience).
"""

from __future__ import annotations

from tests.integration.operator.api_client import CORE, Api, JsonObject, wait_until
from tests.integration.operator.descriptions import check_description
from tests.integration.operator.kubelet import End, Kubelet
from tests.integration.operator.nodes import PARKING, StandInNodes, tolerations
from tests.integration.operator.steps import apply_job, reach_train_job, reach_training


def told(reason: str, message: str, **facts: object) -> JsonObject:
    """A termination message."""
    return {"reason": reason, "message": message, **facts}


def test_a_users_error(api: Api, kubelet: Kubelet) -> None:
    apply_job(api)
    message = "model.source s3://models/base holds no config.json. Name a folder with a model in Hugging Face format."
    kubelet.start("bot-prepare-1", node=PARKING)
    kubelet.fail("bot-prepare-1", 10, message=told("UserError", message))
    api.wait_for_status("bot", phase="Failed", reason="UserError")

    api.wait_for_event("bot", "Warning", "UserError")
    check_description(api, "bot", "user_error")


def test_bad_data(api: Api, kubelet: Kubelet) -> None:
    apply_job(api)
    rows = "; ".join(
        f"s3://data/train.jsonl line {line}: `messages` has no turn of the assistant: nothing is learned"
        for line in range(7, 17)
    )
    message = (
        f"27 of 483 rows cannot be used (the first 10): {rows}. Correct them, or set dataset.preparation.invalidRows: Drop "
        "to leave such rows out. Report: s3://models/support-bot/runs/bot-00000000/data-report.html"
    )
    kubelet.start("bot-prepare-1", node=PARKING)
    kubelet.fail("bot-prepare-1", 11, message=told("DataError", message))
    api.wait_for_status("bot", phase="Failed", reason="DataError")

    api.wait_for_event("bot", "Warning", "DataError")
    check_description(api, "bot", "data_error")


def test_memory_that_stays_too_small(api: Api, kubelet: Kubelet) -> None:
    apply_job(api, failurePolicy__maxRestarts=1)
    reach_training(api, kubelet, node=PARKING)
    kubelet.fail("bot-train-1", 137, reason="OOMKilled")
    kubelet.start("bot-train-2", node=PARKING)
    api.wait_for_status("bot", phase="Training", memoryBackoff=1)
    kubelet.fail(
        "bot-train-2",
        12,
        message=told("OutOfMemory", "CUDA out of memory at step 3 with one row.", step=3, rank=0),
    )
    api.wait_for_status("bot", phase="Failed")

    wait_for_events(api, "OutOfMemory", 2)
    check_description(api, "bot", "out_of_memory")


def test_a_store_that_refuses(api: Api, kubelet: Kubelet) -> None:
    apply_job(api)
    reach_training(api, kubelet, node=PARKING)
    message = "Bucket 'models' refused PutObject (403 AccessDenied) with the keys of Secret 's3-credentials'."
    kubelet.fail("bot-train-1", 13, message=told("StorageDenied", message, step=120))
    api.wait_for_status("bot", phase="Failed", reason="StorageDenied")

    api.wait_for_event("bot", "Warning", "StorageDenied")
    check_description(api, "bot", "storage_denied")


def test_restarts_that_are_used_up(api: Api, kubelet: Kubelet) -> None:
    apply_job(api, failurePolicy__maxRestarts=1)
    reach_training(api, kubelet, node=PARKING)
    for attempt, step in ((1, 40), (2, 80)):
        kubelet.start(f"bot-train-{attempt}", node=PARKING)
        api.wait_for_status("bot", phase="Training", restarts=attempt - 1)
        kubelet.fail(
            f"bot-train-{attempt}",
            20,
            message=told("StorageUnavailable", "No answer from https://s3.example for 300 s.", step=step),
        )
    api.wait_for_status("bot", phase="Failed", reason="RestartsExhausted")

    wait_for_events(api, "StorageUnavailable", 2)
    api.wait_for_event("bot", "Warning", "RestartsExhausted")
    check_description(api, "bot", "restarts_exhausted")


def test_a_loss_that_is_no_number(api: Api, kubelet: Kubelet) -> None:
    apply_job(api)
    reach_training(api, kubelet, node=PARKING)
    kubelet.fail("bot-train-1", 14, message=told("NonFiniteLoss", "The loss of step 17 is NaN.", step=17))
    api.wait_for_status("bot", phase="Failed", reason="NonFiniteLoss")

    api.wait_for_event("bot", "Warning", "NonFiniteLoss")
    check_description(api, "bot", "non_finite_loss")


def test_a_job_that_no_node_takes_until_its_deadline(api: Api, kubelet: Kubelet, nodes: StandInNodes) -> None:
    apply_job(
        api,
        failurePolicy__pendingDeadlineSeconds=2,
        resources__gpuResourceName="example.com/npu",
        resources__nodeSelector={"kubernetes.io/hostname": PARKING},
        resources__tolerations=tolerations(PARKING),
    )
    reach_train_job(api, kubelet)
    api.wait_for_event("bot", "Warning", "Unschedulable")
    api.wait_for_status("bot", 30, phase="Failed", reason="PendingDeadlineExceeded")

    api.wait_for_event("bot", "Warning", "PendingDeadlineExceeded")
    check_description(api, "bot", "unschedulable", volatile=frozenset())


def test_an_image_that_cannot_be_pulled(api: Api, kubelet: Kubelet) -> None:
    apply_job(api, image="registry.example/trainer:typo")
    reach_train_job(api, kubelet)
    kubelet.assign(kubelet.pod_of("bot-train-1"), PARKING)
    kubelet.refuse_image("bot-train-1", "registry.example/trainer:typo")
    api.wait_for_status("bot", reason="ImagePull")

    api.wait_for_event("bot", "Warning", "ImagePull")
    check_description(api, "bot", "image_pull")


def test_a_quota_that_is_used_up(api: Api) -> None:
    api.create(
        CORE, "resourcequotas", {"metadata": {"name": "team"}, "spec": {"hard": {"requests.memory": "1Gi"}}}
    )
    wait_until(lambda: (api.read(CORE, "resourcequotas", "team") or {}).get("status", {}).get("hard"))
    apply_job(api)
    api.wait_for_status("bot", reason="QuotaExceeded")

    api.wait_for_event("bot", "Warning", "QuotaExceeded")
    check_description(api, "bot", "quota_exceeded")


def test_one_rank_of_a_gang(api: Api, kubelet: Kubelet) -> None:
    apply_job(api, parallelism__nodes=2)
    reach_train_job(api, kubelet)
    kubelet.start_all("bot-train-1", 2, PARKING)
    api.wait_for_status("bot", phase="Training")
    kubelet.fail(
        "bot-train-1", 21, message=told("Stalled", "No optimizer step for 1800 s.", step=55, rank=1), rank=1
    )
    kubelet.obey_deletion(
        "bot-train-1", End(1, message=told("Unknown", "Connection closed by peer", rank=0)), rank=0
    )
    kubelet.start_all("bot-train-2", 2, PARKING)
    api.wait_for_status("bot", phase="Training", restarts=1)

    api.wait_for_event("bot", "Warning", "Stalled")
    wait_for_events(api, "Training", 2)
    check_description(api, "bot", "rank_failure")


def wait_for_events(api: Api, reason: str, count: int) -> None:
    """Wait until an event was told so many times, each about another attempt."""
    wait_until(
        lambda: [each for _, each in api.events_about("bot")].count(reason) == count,
        what=lambda: f"{reason} x {count}",
    )
