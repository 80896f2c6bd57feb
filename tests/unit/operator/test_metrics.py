"""The metrics that people alert on: their names, and what moves them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest

from finetune_api.names import Stage
from finetune_api.status import Attempt, AttemptOutcome, FineTuneJobStatus
from finetune_operator import metrics
from tests.unit.operator.builders import make_job


def value(name: str, **labels: str) -> float:
    """A sample of the process's registry; 0 where there is none yet."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


@pytest.fixture
def increase() -> Iterator[Callable[..., float]]:
    """What was added to a sample since the test first asked for it."""
    before: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}

    def since(name: str, **labels: str) -> float:
        key = (name, tuple(sorted(labels.items())))
        return value(name, **labels) - before.setdefault(key, value(name, **labels))

    yield since
    metrics.forget_job("ml", "bot")


def status(*attempts: Attempt, restarts: int = 0, preemptions: int = 0) -> FineTuneJobStatus:
    return FineTuneJobStatus(attempts=list(attempts), restarts=restarts, preemptions=preemptions)


def attempt(outcome: AttemptOutcome, reason: str | None = None, number: int = 1) -> Attempt:
    return Attempt(number=number, stage=Stage.TRAIN, job_uid=f"uid-{number}", outcome=outcome, reason=reason)


RUNNING = attempt(AttemptOutcome.RUNNING)
FAILED = attempt(AttemptOutcome.FAILED, "NodeLost")


def test_the_names_are_an_interface() -> None:
    """Renaming one breaks dashboards and alerts: it belongs into the changelog."""
    exposed = {
        line.split()[2]
        for line in generate_latest().decode().splitlines()
        if line.startswith("# TYPE finetune_") and not line.startswith("# TYPE finetune_jobs ")
    }

    assert exposed == {
        "finetune_api_requests_total",
        "finetune_attempts_total",
        "finetune_certificate_expiration_timestamp_seconds",
        "finetune_job_checkpoint_step",
        "finetune_job_checkpoint_timestamp_seconds",
        "finetune_job_epoch",
        "finetune_job_estimated_remaining_seconds",
        "finetune_job_last_report_timestamp_seconds",
        "finetune_job_learning_rate",
        "finetune_job_loss",
        "finetune_job_peak_memory_bytes",
        "finetune_job_preemptions",
        "finetune_job_progress_ratio",
        "finetune_job_restarts",
        "finetune_job_step",
        "finetune_job_tokens_per_second",
        "finetune_job_total_steps",
        "finetune_jobs_without_series",
        "finetune_lease_held",
        "finetune_live_jobs",
        "finetune_operator_build_info",
        "finetune_preemptions_total",
        "finetune_progress_reports_total",
        "finetune_queue_wait_seconds",
        "finetune_reconcile_duration_seconds",
        "finetune_reconcile_errors_total",
        "finetune_restarts_total",
        "finetune_status_writes_total",
        "finetune_time_to_first_step_seconds",
        "finetune_work_queue_length",
    }


async def test_other_work_goes_on_while_the_metrics_are_written() -> None:
    turns = 0

    async def work() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    working = asyncio.create_task(work())
    written = await metrics.expose()
    working.cancel()

    told = [line for line in written.decode().splitlines() if line.startswith("# TYPE")]
    assert told == [line for line in generate_latest().decode().splitlines() if line.startswith("# TYPE")]
    assert turns >= len(told)


def test_an_attempt_is_counted_once_when_it_ends(increase: Callable[..., float]) -> None:
    job = make_job()
    labels = {"stage": "train", "outcome": "Failed", "reason": "NodeLost"}
    increase("finetune_attempts_total", **labels)

    metrics.observe_job(job.with_status(status(RUNNING)), job.with_status(status(FAILED)))
    metrics.observe_job(job.with_status(status(FAILED)), job.with_status(status(FAILED)))
    metrics.observe_job(None, job.with_status(status(FAILED)))

    assert increase("finetune_attempts_total", **labels) == 1


def test_a_reason_from_elsewhere_makes_no_series(increase: Callable[..., float]) -> None:
    labels = {"stage": "train", "outcome": "Failed", "reason": ""}
    increase("finetune_attempts_total", **labels)

    metrics.attempt_ended(Stage.TRAIN, AttemptOutcome.FAILED, "made-up-by-a-pod")

    assert increase("finetune_attempts_total", **labels) == 1


@pytest.mark.parametrize(
    ("old", "new", "added"),
    [
        pytest.param(0, 1, 1, id="one more"),
        pytest.param(2, 2, 0, id="none"),
        pytest.param(3, 0, 0, id="a new stage begins with none"),
        pytest.param(3, 1, 1, id="a new stage has had one already"),
    ],
)
def test_restarts_and_preemptions_are_counted_by_namespace(
    increase: Callable[..., float], old: int, new: int, added: int
) -> None:
    job = make_job()
    for name in ("finetune_restarts_total", "finetune_preemptions_total"):
        increase(name, namespace="ml")

    metrics.observe_job(
        job.with_status(status(restarts=old, preemptions=old)),
        job.with_status(status(restarts=new, preemptions=new)),
    )

    assert increase("finetune_restarts_total", namespace="ml") == added
    assert increase("finetune_preemptions_total", namespace="ml") == added


@pytest.mark.parametrize("progress_only", [True, False])
def test_writes_of_figures_are_told_apart(increase: Callable[..., float], progress_only: bool) -> None:
    kind = "progress" if progress_only else "transition"
    increase("finetune_status_writes_total", kind=kind)

    metrics.status_written(progress_only=progress_only)

    assert increase("finetune_status_writes_total", kind=kind) == 1


@pytest.mark.parametrize(
    ("method", "path", "code", "labels"),
    [
        pytest.param(
            "GET",
            "/apis/finetune.dev/v1alpha1/namespaces/ml/finetunejobs/bot",
            200,
            ("get", "finetunejobs", "200"),
            id="one object",
        ),
        pytest.param("GET", "/apis/batch/v1/jobs", 200, ("list", "jobs", "200"), id="all of a cluster"),
        pytest.param(
            "GET", "/api/v1/namespaces/ml/pods", 403, ("list", "pods", "403"), id="all of a namespace"
        ),
        pytest.param(
            "PUT",
            "/apis/finetune.dev/v1alpha1/namespaces/ml/finetunejobs/bot/status",
            409,
            ("update", "finetunejobs/status", "409"),
            id="a subresource",
        ),
        pytest.param(
            "GET", "/api/v1/namespaces/ml", 200, ("get", "namespaces", "200"), id="a namespace itself"
        ),
        pytest.param(
            "POST", "/apis/batch/v1/namespaces/ml/jobs", None, ("create", "jobs", "none"), id="no answer"
        ),
        pytest.param("GET", "/openid/v1/jwks", 200, ("get", "/openid/v1/jwks", "200"), id="no resource"),
    ],
)
def test_requests_are_counted_by_what_they_are_about(
    increase: Callable[..., float], method: str, path: str, code: int | None, labels: tuple[str, str, str]
) -> None:
    named = dict(zip(("verb", "resource", "code"), labels, strict=True))
    increase("finetune_api_requests_total", **named)

    metrics.request_answered(method, path, code)

    assert increase("finetune_api_requests_total", **named) == 1


def test_jobs_are_counted_at_the_scrape_with_every_phase_of_their_namespace() -> None:
    registry = CollectorRegistry()
    counted = Counter({("ml", "Training"): 2, ("ml", "Succeeded"): 5_000})
    metrics.count_jobs_with(lambda: counted, registry)

    assert registry.get_sample_value("finetune_jobs", {"namespace": "ml", "phase": "Succeeded"}) == 5_000
    assert registry.get_sample_value("finetune_jobs", {"namespace": "ml", "phase": "Failed"}) == 0

    counted.clear()
    assert registry.get_sample_value("finetune_jobs", {"namespace": "ml", "phase": "Training"}) is None


def test_a_deleted_job_leaves_no_series() -> None:
    job = make_job(status=FineTuneJobStatus.model_validate({"progress": {"step": 3, "totalSteps": 9}}))
    metrics.observe_job(None, job)
    assert REGISTRY.get_sample_value("finetune_job_step", {"namespace": "ml", "name": "bot"}) == 3

    metrics.forget_job("ml", "bot")

    assert REGISTRY.get_sample_value("finetune_job_step", {"namespace": "ml", "name": "bot"}) is None
