"""How long a train attempt waited for its place, and then for its first step: measured once per attempt.

Told from two statuses of a job, before and after a write; what is not certain is not measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from finetune_api.names import Stage
from finetune_api.status import Attempt, FineTuneJobStatus
from finetune_operator.job_resource import FineTuneJob, JobKey
from finetune_operator.times import parse_time


@dataclass(frozen=True)
class Starts:
    """What was measured just now; None for what was not."""

    queue_wait_seconds: float | None = None
    first_step_seconds: float | None = None


@dataclass(frozen=True)
class _Begun:
    """An attempt that has reported where it begins, but no step of its own yet."""

    job_uid: str
    step: int


class AttemptStarts:
    """Remembers one attempt a job, from its first report to its first step."""

    def __init__(self) -> None:
        self._begun: dict[JobKey, _Begun] = {}

    def observe(self, before: FineTuneJob, after: FineTuneJob) -> Starts:
        """Measure what a write of the status tells."""
        if not after.status.attempts or after.status.attempts[-1].stage is not Stage.TRAIN:
            self.forget(after.key)
            return Starts()
        attempt = after.status.attempts[-1]
        was = next((each for each in before.status.attempts if each.job_uid == attempt.job_uid), None)
        return Starts(
            _queue_wait_seconds(was, attempt), self._first_step_seconds(after.key, was, attempt, after.status)
        )

    def forget(self, key: JobKey) -> None:
        """The job has gone, or is in another stage."""
        self._begun.pop(key, None)

    def _first_step_seconds(
        self, key: JobKey, was: Attempt | None, attempt: Attempt, status: FineTuneJobStatus
    ) -> float | None:
        reported = status.progress.last_update_time if status.progress else None
        if attempt.running_since is None or attempt.step is None or reported is None:
            return None
        begun = self._begun.get(key)
        if was is None or was.step is None:
            resumed_at = status.checkpoint.step if status.checkpoint else 0
            if attempt.step in (0, resumed_at):
                self._begun[key] = _Begun(attempt.job_uid, attempt.step)
                return None
        elif begun is None or begun.job_uid != attempt.job_uid or attempt.step <= begun.step:
            return None
        self.forget(key)
        return _seconds(attempt.running_since, reported)


def _queue_wait_seconds(was: Attempt | None, attempt: Attempt) -> float | None:
    # After an eviction by the queue `runningSince` is gone, but the node still says that it ran before.
    has_run = was is not None and (was.running_since is not None or was.node is not None)
    if has_run or attempt.started is None or attempt.running_since is None:
        return None
    return _seconds(attempt.started, attempt.running_since)


def _seconds(start: str, end: str) -> float:
    return max(0.0, (parse_time(end) - parse_time(start)).total_seconds())
