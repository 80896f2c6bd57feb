"""Gauges of single jobs: where training stands, labelled with namespace and name.

The number of series is bounded: a job is shown from its first figures until it is deleted or ended ten minutes ago
(two scrapes at Prometheus' slowest usual pace), and at most MAX_JOBS_SHOWN are, those that began first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from finetune_api.status import ConditionType, FineTuneJobStatus, Progress
from finetune_operator.conditions import is_true
from finetune_operator.job_resource import FineTuneJob, JobKey
from finetune_operator.times import parse_time

KEEP_ENDED_SECONDS = 600.0
MAX_JOBS_SHOWN = 2_000

Figure = Callable[[FineTuneJobStatus, Progress], float | None]
_LABELS = ("namespace", "name")
_FIGURES: tuple[tuple[str, str, Figure], ...] = (
    ("finetune_job_step", "Finished optimizer steps.", lambda _, told: told.step),
    ("finetune_job_total_steps", "Optimizer steps in all.", lambda _, told: told.total_steps),
    ("finetune_job_epoch", "Epoch, with fraction.", lambda _, told: told.epoch),
    (
        "finetune_job_progress_ratio",
        "Share of the optimizer steps that are finished, 0 to 1.",
        lambda _, told: None if told.percent is None else told.percent / 100,
    ),
    ("finetune_job_loss", "Loss of the last step, per learned token.", lambda _, told: told.loss),
    ("finetune_job_learning_rate", "Learning rate of the last step.", lambda _, told: told.learning_rate),
    (
        "finetune_job_tokens_per_second",
        "Tokens trained on each second, padding not counted.",
        lambda _, told: told.tokens_per_second,
    ),
    (
        "finetune_job_estimated_remaining_seconds",
        "Estimated time until the last step.",
        lambda _, told: told.eta_seconds,
    ),
    (
        "finetune_job_peak_memory_bytes",
        "Largest memory of rank 0 on its device.",
        lambda _, told: told.peak_memory_bytes,
    ),
    (
        "finetune_job_last_report_timestamp_seconds",
        "When the figures were last reported (Unix time).",
        lambda _, told: _timestamp(told.last_update_time),
    ),
    (
        "finetune_job_checkpoint_step",
        "Step of the newest committed checkpoint.",
        lambda status, _: status.checkpoint.step if status.checkpoint else None,
    ),
    (
        "finetune_job_checkpoint_timestamp_seconds",
        "When the newest checkpoint was committed (Unix time).",
        lambda status, _: _timestamp(status.checkpoint.time) if status.checkpoint else None,
    ),
    ("finetune_job_restarts", "Restarts counted in the current stage.", lambda status, _: status.restarts),
    (
        "finetune_job_preemptions",
        "Evictions and disruptions that did not count as restarts.",
        lambda status, _: status.preemptions,
    ),
)


@dataclass(frozen=True)
class _Shown:
    status: FineTuneJobStatus
    progress: Progress
    ended_at: float | None


class JobFigures(Collector):
    """The newest figures of each job that has some. Shares its objects with the cache, so it costs little."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._shown: dict[JobKey, _Shown] = {}

    def observe(self, job: FineTuneJob) -> None:
        """Take in a job as it is now."""
        progress = job.status.progress
        if progress is None:
            self.forget(job.key)
            return
        ended_at = self._ended_at(job)
        if ended_at is not None:
            self._drop_ended()  # Here too: nobody may ever scrape.
        self._shown[job.key] = _Shown(job.status, progress, ended_at)

    def forget(self, key: JobKey) -> None:
        """Drop a job that was deleted."""
        self._shown.pop(key, None)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Write down what is shown now."""
        self._drop_ended()
        shown = list(islice(self._shown.items(), MAX_JOBS_SHOWN))
        for name, meaning, figure in _FIGURES:
            family = GaugeMetricFamily(name, meaning, labels=_LABELS)
            for key, each in shown:
                value = figure(each.status, each.progress)
                if value is not None:
                    family.add_metric((key.namespace, key.name), value)
            yield family
        yield GaugeMetricFamily(
            "finetune_jobs_without_series",
            f"Jobs in training whose figures are left out, because {MAX_JOBS_SHOWN} others are shown.",
            value=len(self._shown) - len(shown),
        )

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Names alone, so that registering costs nothing."""
        return (GaugeMetricFamily(name, meaning) for name, meaning, _ in _FIGURES)

    def _ended_at(self, job: FineTuneJob) -> float | None:
        if not is_true(job.status.conditions, ConditionType.FINISHED):
            return None
        known = self._shown.get(job.key)
        return known.ended_at if known and known.ended_at is not None else self._monotonic()

    def _drop_ended(self) -> None:
        limit = self._monotonic() - KEEP_ENDED_SECONDS
        for key in [
            key for key, each in self._shown.items() if each.ended_at is not None and each.ended_at <= limit
        ]:
            del self._shown[key]


def _timestamp(text: str | None) -> float | None:
    return parse_time(text).timestamp() if text else None
