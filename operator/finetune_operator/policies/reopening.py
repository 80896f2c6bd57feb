"""Whether a Failed job is to go on because `spec.retry` was raised, and with what history."""

from __future__ import annotations

from finetune_api.status import ConditionType, FineTuneJobStatus, Phase
from finetune_operator import conditions
from finetune_operator.job_resource import FineTuneJob

# They are judged anew; left standing, they would call the job finished.
_ENDS = frozenset({ConditionType.SUCCEEDED, ConditionType.FAILED, ConditionType.FINISHED})


def is_retry_asked(job: FineTuneJob) -> bool:
    """Whether the user raised `spec.retry` on a job that has failed."""
    has_failed = conditions.is_true(job.status.conditions, ConditionType.FAILED)
    return has_failed and job.spec is not None and job.spec.retry > job.status.observed_retry


def reopen(job: FineTuneJob) -> FineTuneJobStatus:
    """The status of a job that goes on: its attempts and checkpoint stand, its restarts count anew."""
    assert job.spec is not None
    told = f"Restarted: spec.retry was raised to {job.spec.retry}."
    newest = [attempt.model_copy(update={"decision": told}) for attempt in job.status.attempts[-1:]]
    return job.status.model_copy(
        update={
            "attempts": [*job.status.attempts[:-1], *newest],
            "conditions": [each for each in job.status.conditions if each.type not in _ENDS],
            "phase": Phase.RESTARTING if job.status.attempts else Phase.PENDING,
            "completion_time": None,
            "observed_retry": job.spec.retry,
            "restarts": 0,
            "incomplete_gangs": 0,
            "waiting_since": None,
        }
    )
