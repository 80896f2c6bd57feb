"""/metrics of a real operator: jobs, attempts and figures as they happen, and nothing of a job that is gone."""

from __future__ import annotations

from collections.abc import Callable

from tests.integration.operator.api_client import Api, wait_until
from tests.integration.operator.kubelet import Kubelet
from tests.integration.operator.metrics_steps import Scrape
from tests.integration.operator.process import OperatorProcess
from tests.integration.operator.progress_steps import make_report, make_token, post
from tests.integration.operator.steps import apply_job, delete_job, finish_from_training, reach_training


def wait_for(operator: OperatorProcess, reached: Callable[[Scrape], bool]) -> Scrape:
    """Scrape until it says so."""
    return wait_until(
        lambda: scrape if reached(scrape := Scrape(operator)) else None, what=lambda: "such metrics"
    )


def test_a_jobs_life_can_be_read_from_the_metrics(
    api: Api, operator: OperatorProcess, kubelet: Kubelet
) -> None:
    succeeded = {"stage": "prepare", "outcome": "Succeeded", "reason": ""}
    before = Scrape(operator).value("finetune_attempts_total", **succeeded) or 0
    apply_job(api)
    reach_training(api, kubelet)
    token = make_token(api, kubelet.pod_of("bot-train-1"))
    assert post(api, operator, token, make_report(0, loss=None)) == 200
    wait_until(lambda: api.status("bot")["display"]["step"] == "0/90")
    assert post(api, operator, token, make_report(45)) == 200

    job = {"namespace": api.namespace, "name": "bot"}
    training = wait_for(operator, lambda each: each.value("finetune_job_step", **job) == 45)

    assert training.value("finetune_job_total_steps", **job) == 90
    assert training.value("finetune_job_progress_ratio", **job) == 0.5
    assert training.value("finetune_job_loss", **job) == 1.23456
    assert training.value("finetune_jobs", namespace=api.namespace, phase="Training") == 1
    assert training.value("finetune_jobs", namespace=api.namespace, phase="Failed") == 0
    assert training.value("finetune_attempts_total", **succeeded) == before + 1
    for name in ("finetune_queue_wait_seconds", "finetune_time_to_first_step_seconds"):
        assert training.value(f"{name}_count", namespace=api.namespace) == 1, name
    assert training.value("finetune_lease_held") == 1
    assert (training.value("finetune_progress_reports_total", code="200") or 0) >= 2

    finish_from_training(api, kubelet)
    finished = wait_for(
        operator, lambda each: each.value("finetune_jobs", namespace=api.namespace, phase="Succeeded") == 1
    )
    assert finished.value("finetune_job_step", **job) == 90, "the last figures stay for the next scrape"

    delete_job(api)
    gone = wait_for(operator, lambda each: not each.names_about(**job))
    assert gone.value("finetune_jobs", namespace=api.namespace, phase="Succeeded") is None


def test_ended_jobs_are_counted_again_after_a_restart_but_have_no_series(
    api: Api, operator: OperatorProcess, kubelet: Kubelet
) -> None:
    apply_job(api)
    kubelet.fail("bot-prepare-1", 10)
    api.wait_for_status("bot", phase="Failed")

    operator.kill()
    operator.start()

    restarted = Scrape(operator)
    assert restarted.value("finetune_jobs", namespace=api.namespace, phase="Failed") == 1
    assert not restarted.names_about(namespace=api.namespace, name="bot")


def test_requests_and_errors_are_counted(api: Api, operator: OperatorProcess, kubelet: Kubelet) -> None:
    apply_job(api)
    kubelet.pod_of("bot-prepare-1")

    scrape = wait_for(
        operator,
        lambda each: bool(
            each.value("finetune_api_requests_total", verb="create", resource="jobs", code="201")
            and each.value(
                "finetune_api_requests_total", verb="update", resource="finetunejobs/status", code="200"
            )
        ),
    )
    assert (scrape.value("finetune_status_writes_total", kind="transition") or 0) >= 1
    assert (scrape.value("finetune_reconcile_duration_seconds_count") or 0) >= 1
    ends = [
        scrape.value("finetune_certificate_expiration_timestamp_seconds", certificate=each)
        for each in ("server", "authority")
    ]
    assert ends[0] is not None
    assert ends[1] is not None
    assert ends[0] < ends[1]
