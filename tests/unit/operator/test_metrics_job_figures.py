"""Gauges of single jobs: what is shown, for how long, and of how many."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from finetune_api.status import FineTuneJobStatus
from finetune_operator import job_figures
from finetune_operator.job_figures import JobFigures
from finetune_operator.job_resource import FineTuneJob, JobKey
from tests.unit.operator.builders import make_job

FINISHED = {
    "type": "Finished",
    "status": "True",
    "reason": "Succeeded",
    "lastTransitionTime": "2026-01-01T12:00:00Z",
}
FIGURES = {
    "step": 45,
    "totalSteps": 90,
    "epoch": 0.5,
    "percent": 50,
    "loss": 1.25,
    "learningRate": 0.0002,
    "tokensPerSecond": 1000.0,
    "etaSeconds": 200,
    "peakMemoryBytes": 2**30,
    "lastUpdateTime": "2026-01-01T12:00:00Z",
}


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def figures(clock: Clock) -> JobFigures:
    return JobFigures(clock)


def job_with(**status: Any) -> FineTuneJob:
    return make_job(status=FineTuneJobStatus.model_validate({"progress": FIGURES, **status}))


def exposed(figures: JobFigures) -> dict[str, float]:
    """Samples by series, as Prometheus reads them."""
    registry = CollectorRegistry()
    registry.register(figures)
    lines = [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]
    return {series: float(number) for series, _, number in (line.rpartition(" ") for line in lines)}


def test_figures_are_shown_in_base_units(figures: JobFigures) -> None:
    checkpoint = {"step": 40, "uri": "s3://c", "time": "2026-01-01T11:59:00Z"}
    figures.observe(job_with(checkpoint=checkpoint, restarts=1, preemptions=2))

    of = '{name="bot",namespace="ml"}'
    assert exposed(figures) == {
        f"finetune_job_step{of}": 45,
        f"finetune_job_total_steps{of}": 90,
        f"finetune_job_epoch{of}": 0.5,
        f"finetune_job_progress_ratio{of}": 0.5,
        f"finetune_job_loss{of}": 1.25,
        f"finetune_job_learning_rate{of}": 0.0002,
        f"finetune_job_tokens_per_second{of}": 1000,
        f"finetune_job_estimated_remaining_seconds{of}": 200,
        f"finetune_job_peak_memory_bytes{of}": 2**30,
        f"finetune_job_last_report_timestamp_seconds{of}": 1767268800,
        f"finetune_job_checkpoint_step{of}": 40,
        f"finetune_job_checkpoint_timestamp_seconds{of}": 1767268740,
        f"finetune_job_restarts{of}": 1,
        f"finetune_job_preemptions{of}": 2,
        "finetune_jobs_without_series": 0,
    }


def test_what_is_not_known_is_not_shown(figures: JobFigures) -> None:
    figures.observe(job_with(progress={"step": 0, "totalSteps": 90}))

    assert not [series for series in exposed(figures) if "loss" in series or "checkpoint" in series]


def test_a_job_without_figures_has_no_series(figures: JobFigures) -> None:
    figures.observe(make_job())

    assert exposed(figures) == {"finetune_jobs_without_series": 0}


def test_an_ended_job_is_shown_for_ten_more_minutes(figures: JobFigures, clock: Clock) -> None:
    figures.observe(job_with())
    clock.now = 1000
    figures.observe(job_with(conditions=[FINISHED]))

    clock.now = 1599
    figures.observe(job_with(conditions=[FINISHED]))  # Seen again: that does not begin the time anew.
    assert len(exposed(figures)) > 1
    clock.now = 1600
    assert exposed(figures) == {"finetune_jobs_without_series": 0}


def test_a_job_that_is_retried_is_shown_on(figures: JobFigures, clock: Clock) -> None:
    figures.observe(job_with(conditions=[FINISHED]))
    figures.observe(job_with())

    clock.now = 10_000
    assert len(exposed(figures)) > 1


def test_ended_jobs_are_dropped_although_nobody_scrapes(figures: JobFigures, clock: Clock) -> None:
    figures.observe(job_with(conditions=[FINISHED]))
    clock.now = 601
    figures.observe(make_named("other", conditions=[FINISHED]))

    assert list(figures._shown) == [JobKey("ml", "other")]


def make_named(name: str, **status: Any) -> FineTuneJob:
    return replace(job_with(**status), key=JobKey("ml", name))


def test_the_number_of_jobs_with_series_is_bounded(
    figures: JobFigures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_figures, "MAX_JOBS_SHOWN", 2)
    for name in ("a", "b", "c"):
        figures.observe(make_named(name))

    shown = exposed(figures)
    assert shown["finetune_jobs_without_series"] == 1
    assert sorted(series for series in shown if series.startswith("finetune_job_step")) == [
        'finetune_job_step{name="a",namespace="ml"}',
        'finetune_job_step{name="b",namespace="ml"}',
    ]

    figures.forget(JobKey("ml", "a"))
    assert 'finetune_job_step{name="c",namespace="ml"}' in exposed(figures)
