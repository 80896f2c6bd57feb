"""Progress, as a train pod reports it: over HTTPS, with a real token bound to the pod, into `kubectl get`."""

from __future__ import annotations

import pytest

from finetune_api.names import ENV_GRACE_SECONDS
from finetune_api.progress import NoticeReason
from tests.integration.operator.api_client import CORE, Api, JsonObject, wait_until
from tests.integration.operator.kubelet import Kubelet
from tests.integration.operator.nodes import PARKING
from tests.integration.operator.process import OperatorProcess
from tests.integration.operator.progress_steps import make_report, make_token, post
from tests.integration.operator.steps import apply_job, condition, reach_train_job, reach_training


@pytest.fixture
def train_pod(api: Api, kubelet: Kubelet) -> JsonObject:
    """A train pod that runs."""
    apply_job(api)
    reach_training(api, kubelet)
    return kubelet.pod_of("bot-train-1")


def test_a_report_is_shown_in_status(api: Api, operator: OperatorProcess, train_pod: JsonObject) -> None:
    checkpoint = {
        "step": 10,
        "uri": "s3://models/bot/runs/x/checkpoints/step-00000010",
        "time": "2026-01-01T00:00:00Z",
    }
    effective = {"microBatchTokens": 4096, "gradientAccumulation": 2, "worldSize": 1, "strategy": "DDP"}
    report = make_report(12, checkpoint=checkpoint, effective=effective)

    assert post(api, operator, make_token(api, train_pod), report) == 200

    status = wait_until(lambda: s if (s := api.status("bot"))["display"]["step"] == "12/90" else None)
    assert status["display"] == {
        "model": "base",
        "gpus": "1",
        "step": "12/90",
        "loss": "1.235",
        "eta": "3m20s",
    }
    assert status["checkpoint"]["step"] == 10
    assert status["effective"]["microBatchTokens"] == 4096
    assert status["progress"]["percent"] == 13


def test_reports_stay_after_the_operator_was_restarted(
    api: Api, operator: OperatorProcess, train_pod: JsonObject
) -> None:
    token = make_token(api, train_pod)
    assert post(api, operator, token, make_report(12)) == 200
    wait_until(lambda: api.status("bot")["display"]["step"] == "12/90")

    operator.kill()
    operator.start()
    assert post(api, operator, token, make_report(13)) == 200

    wait_until(lambda: api.status("bot")["display"]["step"] == "13/90")


def test_a_notice_is_told_when_it_begins_and_is_the_message_until_it_is_over(
    api: Api, operator: OperatorProcess, train_pod: JsonObject
) -> None:
    token, usual = make_token(api, train_pod), api.status("bot")["message"]
    passed_over = {
        "reason": "CheckpointPassedOver",
        "message": "Step 20 is damaged; the run went on from step 10.",
    }
    unavailable = {"reason": "StoreUnavailable", "message": "The store does not answer since 12:00."}
    foreign = {"reason": "OfALaterVersion", "message": "Nobody here knows what this means."}

    assert post(api, operator, token, make_report(12, notices=[foreign, passed_over, unavailable])) == 200
    status = api.wait_for_status("bot", message=passed_over["message"])
    assert (status["phase"], status["reason"]) == ("Training", "Training")
    assert condition(status, "Running") == ("True", "Training")
    wait_until(
        lambda: list_notices(api) == [passed_over, unavailable], what=lambda: f"both: {list_notices(api)}"
    )

    operator.kill()
    operator.start()
    assert post(api, operator, token, make_report(13, notices=[unavailable])) == 200
    api.wait_for_status("bot", message=unavailable["message"])
    assert post(api, operator, token, make_report(14)) == 200
    api.wait_for_status("bot", message=usual)
    assert list_notices(api) == [passed_over, unavailable], "neither has begun anew"

    assert post(api, operator, token, make_report(15, notices=[unavailable])) == 200
    api.wait_for_status("bot", message=unavailable["message"])
    again = [passed_over, unavailable, unavailable]
    wait_until(lambda: list_notices(api) == again, what=lambda: f"it again: {list_notices(api)}")


def list_notices(api: Api) -> list[JsonObject]:
    """Reason and message of all Warning events about the job that are notices."""
    told = [each for each in api.list_objects(CORE, "events") if each["reason"] in set(NoticeReason)]
    assert {each["type"] for each in told} <= {"Warning"}
    pairs = [{"reason": each["reason"], "message": each["message"]} for each in told]
    return sorted(pairs, key=lambda pair: str(pair["reason"]))


def test_what_a_stop_needs_is_the_next_attempts_grace_period_also_after_a_restart(
    api: Api, operator: OperatorProcess, kubelet: Kubelet, train_pod: JsonObject
) -> None:
    checkpoint = {
        "step": 10,
        "uri": "s3://models/bot/runs/x/checkpoints/step-00000010",
        "time": "2026-01-01T00:00:00Z",
        "sizeBytes": 2**33,
        "saveSeconds": 7.5,
    }
    report = make_report(12, checkpoint=checkpoint, stopSeconds=200)
    assert post(api, operator, make_token(api, train_pod), report) == 200
    told = {**checkpoint, "stopSeconds": 200}
    wait_until(lambda: api.status("bot").get("checkpoint") == told, what=lambda: f"{api.status('bot')}")
    assert grace_of(kubelet.pod_of("bot-train-1")) == (120, "120"), "a Job that exists is never changed"

    with operator.down():
        kubelet.fail("bot-train-1", 137)

    assert grace_of(kubelet.pod_of("bot-train-2")) == (415, "415")
    status = api.wait_for_status("bot", stepsLost=2)
    assert [each.get("stepsLost") for each in status["attempts"]] == [None, 2, None]
    assert status["checkpoint"] == told


def grace_of(pod: JsonObject) -> tuple[int, str]:
    """How long the pod may save: as the kubelet knows it, and as its container does."""
    (container,) = pod["spec"]["containers"]
    variables = {each["name"]: each.get("value", "") for each in container["env"]}
    return pod["spec"]["terminationGracePeriodSeconds"], variables[ENV_GRACE_SECONDS]


def test_of_a_gang_only_what_rank_0_reports_is_shown(
    api: Api, operator: OperatorProcess, kubelet: Kubelet
) -> None:
    apply_job(api, parallelism__nodes=2)
    reach_train_job(api, kubelet)
    kubelet.start_all("bot-train-1", 2)
    api.wait_for_status("bot", phase="Training")
    tokens = [make_token(api, pod) for pod in kubelet.pods_of("bot-train-1", 2)]

    assert post(api, operator, tokens[1], make_report(50)) == 200
    assert post(api, operator, tokens[0], make_report(12)) == 200
    wait_until(lambda: api.status("bot")["display"]["step"] == "12/90")
    assert post(api, operator, tokens[1], make_report(51)) == 200
    assert post(api, operator, tokens[0], make_report(13)) == 200

    steps: list[str] = []

    def reached() -> bool:
        steps.append(api.status("bot")["display"]["step"])
        return steps[-1] == "13/90"

    wait_until(reached)
    assert set(steps) <= {"12/90", "13/90"}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        pytest.param(
            {"trainerStatus": {}, "finetune": {"step": -1, "totalSteps": 9}}, 400, id="a negative step"
        ),
        pytest.param(
            {"trainerStatus": {}, "finetune": {"step": 1, "totalSteps": 9, "loss": float("nan")}},
            400,
            id="NaN",
        ),
        pytest.param(["no", "object"], 400, id="no object"),
        pytest.param({"trainerStatus": {}, "padding": "x" * 70_000}, 413, id="too large"),
    ],
)
def test_a_malformed_report_is_refused(
    api: Api, operator: OperatorProcess, train_pod: JsonObject, body: object, code: int
) -> None:
    before = api.status("bot")

    assert post(api, operator, make_token(api, train_pod), body) == code

    assert api.status("bot") == before


def test_huge_figures_do_not_spoil_the_status(
    api: Api, operator: OperatorProcess, train_pod: JsonObject
) -> None:
    """What the API server would not take must not keep the job's next figures from being written."""
    token = make_token(api, train_pod)
    plain = [
        {"name": "current_step", "value": "1e+300"},
        {"name": "total_steps", "value": "inf"},
        {"name": "loss", "value": "1.7976931348623157e+308"},
        {"name": "learning_rate", "value": "nan"},
    ]

    assert post(api, operator, token, {"trainerStatus": {"progressPercentage": 7, "metrics": plain}}) == 200
    progress = wait_until(
        lambda: p if (p := api.status("bot").get("progress", {})).get("percent") == 7 else None
    )
    assert "learningRate" not in progress
    assert progress["step"] == 0

    assert post(api, operator, token, make_report(2**63)) == 400
    assert post(api, operator, token, make_report(3)) == 200
    wait_until(lambda: api.status("bot")["display"]["step"] == "3/90")


def test_without_a_token_of_our_audience_and_of_a_pod_nobody_is_heard(
    api: Api, operator: OperatorProcess, train_pod: JsonObject
) -> None:
    for_the_api_server = make_token(api, train_pod, "https://kubernetes.default.svc")

    assert post(api, operator, None, make_report(1)) == 401
    assert post(api, operator, "not-a-token", make_report(1)) == 401
    assert post(api, operator, for_the_api_server, make_report(1)) == 401
    assert post(api, operator, make_token(api, None), make_report(1)) == 401


def test_a_pod_of_no_job_is_not_heard(api: Api, operator: OperatorProcess, train_pod: JsonObject) -> None:
    """Labels are anybody's to write: only owner references count."""
    spec = {"containers": [{"name": "x", "image": "x"}]}
    metadata = {"name": "stranger", "labels": train_pod["metadata"]["labels"]}
    metadata["labels"].pop("controller-uid", None)
    stranger = api.create(CORE, "pods", {"metadata": metadata, "spec": spec})

    assert post(api, operator, make_token(api, stranger), make_report(1)) == 503


def test_a_deleted_pod_is_not_heard(api: Api, operator: OperatorProcess, kubelet: Kubelet) -> None:
    apply_job(api)
    reach_training(api, kubelet, node=PARKING)
    pod = kubelet.pod_of("bot-train-1")
    token = make_token(api, pod)
    assert post(api, operator, token, make_report(12)) == 200
    wait_until(lambda: api.status("bot")["display"]["step"] == "12/90")

    api.delete(CORE, "pods", pod["metadata"]["name"])
    kubelet.obey_deletion("bot-train-1")

    codes: list[int] = []

    def is_refused() -> bool:
        codes.append(post(api, operator, token, make_report(13)))
        return codes[-1] == 503

    wait_until(is_refused, what=lambda: f"refusal; answers are {codes}")


def test_a_pod_that_reports_too_often_is_told_so(
    api: Api, operator: OperatorProcess, train_pod: JsonObject
) -> None:
    token = make_token(api, train_pod)

    codes = [post(api, operator, token, make_report(step)) for step in range(12)]

    assert codes[0] == 200
    assert 429 in codes
