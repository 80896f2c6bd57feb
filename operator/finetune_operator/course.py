"""The job's history brought up to date, attempt by attempt, and where that leaves the job.

The reconciler's middle: folds in what the newest attempt reports, closes it if it has ended, and says what follows.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from finetune_api.names import STAGES, Stage, child_name
from finetune_api.reasons import Reason
from finetune_api.status import Attempt, AttemptOutcome, FineTuneJobStatus
from finetune_operator import attempts as attempts_
from finetune_operator import gang as gangs
from finetune_operator.attempts import Ending, LookUp
from finetune_operator.job_resource import FineTuneJob
from finetune_operator.observation import Observed
from finetune_operator.pace import Pace
from finetune_operator.policies import deadline, gang_start, retry
from finetune_operator.policies.classification import Failure
from finetune_operator.progress import fold_report
from finetune_operator.standing import (
    Course,
    Failed,
    Restarting,
    Standing,
    Starting,
    Succeeded,
    Suspended,
)
from finetune_operator.status import fold_termination
from finetune_operator.times import has_passed, parse_time
from finetune_operator.under_way import watch_attempt


def chart_course(job: FineTuneJob, observed: Observed, now: datetime, pace: Pace) -> Course | LookUp:
    """Bring the history up to date and find where that leaves the job."""
    base = job.status
    unknown = list(attempts_.list_unknown_children(job.name, base.attempts, observed))
    while True:
        found = _chart_newest(job, base, observed, now, pace, is_superseded=bool(unknown))
        if isinstance(found, LookUp) or not unknown:
            return found
        base = _adopt(found.base, unknown.pop(0))


def list_stages_done(base: FineTuneJobStatus) -> frozenset[Stage]:
    """The stages that have succeeded."""
    newest = _newest_of_chain(base)
    if newest is None:
        return frozenset()
    index = STAGES.index(newest.stage) + int(newest.outcome is AttemptOutcome.SUCCEEDED)
    return frozenset(STAGES[:index])


def _newest_of_chain(base: FineTuneJobStatus) -> Attempt | None:
    return next((each for each in reversed(base.attempts) if each.stage in STAGES), None)


def _adopt(base: FineTuneJobStatus, attempt: Attempt) -> FineTuneJobStatus:
    """Append an attempt. Restarts are counted within a stage, so a new stage begins with none."""
    has_advanced = not base.attempts or base.attempts[-1].stage is not attempt.stage
    return base.model_copy(
        update={
            "attempts": attempts_.append_attempt(base.attempts, attempt),
            "restarts": 0 if has_advanced else base.restarts,
        }
    )


def _chart_newest(
    job: FineTuneJob,
    base: FineTuneJobStatus,
    observed: Observed,
    now: datetime,
    pace: Pace,
    *,
    is_superseded: bool,
) -> Course | LookUp:
    """Fold in what the newest attempt reports, close it if it has ended, and say what comes next."""
    if not base.attempts:
        return Course(base, _hold_or(job, Starting(Stage.PREPARE, 1, observed.refusal)))
    newest = base.attempts[-1]
    if newest.outcome is not AttemptOutcome.RUNNING:
        return Course(base, _follow(job, base, newest, observed, now, pace))
    if observed.report is not None and observed.report.job_uid == newest.job_uid:
        base = fold_report(base, observed.report)
        newest = base.attempts[-1]
    ending = attempts_.find_ending(job.name, newest, observed, now)
    if isinstance(ending, LookUp):
        return ending
    if ending is None and is_superseded:
        ending = attempts_.close_attempt(newest, gangs.observe_gang(newest.job_uid, observed), now)
    if ending is None:
        return watch_attempt(job, base, newest, observed, now)
    return _close(job, base, ending, observed, now, pace)


# --- an attempt that has ended ---------------------------------------------------------------------------------


def _close(
    job: FineTuneJob,
    base: FineTuneJobStatus,
    ending: Ending,
    observed: Observed,
    now: datetime,
    pace: Pace,
) -> Course:
    """The newest attempt has ended: put it into the history, count it, and go on from there."""
    saved = attempts_.has_saved_checkpoint(ending.attempt, base.checkpoint, ending.termination)
    base = _record(job, base, ending)
    closed = base.attempts[-1]
    if ending.failure is not None:
        return _close_failed(job, base, closed, ending.failure, observed, now, pace, saved=saved)
    if closed.outcome is AttemptOutcome.STOPPED:
        base = _count_stop(base, closed)
        failed = _why_stop_is_final(closed)
        return Course(base, failed or _follow(job, base, closed, observed, now, pace))
    if ending.termination is not None:
        base = fold_termination(job, base, ending.termination, now)
    base = base.model_copy(update={"incomplete_gangs": 0})
    return Course(base, _follow(job, base, closed, observed, now, pace))


def _record(job: FineTuneJob, base: FineTuneJobStatus, ending: Ending) -> FineTuneJobStatus:
    """The history with the attempt as it ended, its checkpoint, its running time and what it lost.

    Sums are written together with the end that they count, so that a killed operator counts nothing twice.
    """
    assert job.spec is not None
    closed = ending.attempt
    ended = parse_time(closed.ended) if closed.ended else None
    ran = deadline.running_seconds(closed, ended) if ended else 0
    checkpoint = attempts_.fold_checkpoint(closed, base.checkpoint, ending.termination)
    lost = attempts_.count_steps_lost(
        ending, checkpoint, saves_when_told_to_go=job.spec.checkpoints.on_preemption
    )
    return attempts_.replace_newest(base, closed.model_copy(update={"steps_lost": lost})).model_copy(
        update={
            "checkpoint": checkpoint,
            "active_seconds": base.active_seconds + ran,
            "steps_lost": base.steps_lost + (lost or 0),
        }
    )


def _close_failed(
    job: FineTuneJob,
    base: FineTuneJobStatus,
    closed: Attempt,
    failure: Failure,
    observed: Observed,
    now: datetime,
    pace: Pace,
    *,
    saved: bool,
) -> Course:
    """Judge the failure: the verdict stands in the attempt, and its counts in the status."""
    assert job.spec is not None
    policy = job.spec.failure_policy
    verdict = retry.judge(failure, closed.stage, policy, restarts=base.restarts, saved_new_checkpoint=saved)
    closed = closed.model_copy(update={"counted": verdict.counted, "decision": verdict.explanation})
    base = attempts_.replace_newest(base, closed).model_copy(
        update={
            "restarts": base.restarts + int(verdict.counted and verdict.restarts),
            "preemptions": base.preemptions + int(not verdict.counted),
            "memory_backoff": base.memory_backoff + int(verdict.halves_micro_batch),
            "incomplete_gangs": 0,
        }
    )
    if not verdict.restarts:
        return Course(base, _give_up(failure, closed, policy.max_restarts))
    return Course(base, _follow(job, base, closed, observed, now, pace))


def _give_up(failure: Failure, attempt: Attempt, limit: int) -> Failed:
    if failure.failure_class.ends_job:
        return Failed(failure.failure_class, failure.message)
    return Failed(
        Reason.RESTARTS_EXHAUSTED,
        f"Attempt {attempt.number} of {attempt.stage} ended: {failure.message} No further attempt is made: "
        f"spec.failurePolicy.maxRestarts is {limit}.",
    )


def _count_stop(base: FineTuneJobStatus, stopped: Attempt) -> FineTuneJobStatus:
    is_gang = stopped.reason == Reason.GANG_INCOMPLETE
    return base.model_copy(update={"incomplete_gangs": base.incomplete_gangs + 1 if is_gang else 0})


def _why_stop_is_final(stopped: Attempt) -> Failed | None:
    """A deadline ends the job; every other stop is followed by another attempt."""
    if stopped.reason not in (Reason.ACTIVE_DEADLINE_EXCEEDED, Reason.PENDING_DEADLINE_EXCEEDED):
        return None
    return Failed(Reason(stopped.reason), stopped.message or "")


def _follow(
    job: FineTuneJob,
    base: FineTuneJobStatus,
    ended: Attempt,
    observed: Observed,
    now: datetime,
    pace: Pace,
) -> Standing:
    """What follows an ended attempt: the next stage, the next attempt when its time has come, or the end."""
    assert job.spec is not None
    if ended.outcome is AttemptOutcome.SUCCEEDED:
        if ended.stage is Stage.EXPORT:
            return Succeeded()
        if ended.stage is Stage.PREPARE and job.spec.stop_after is not None:
            return Succeeded(after_prepare_only=True)
        following = Starting(STAGES[STAGES.index(ended.stage) + 1], 1, observed.refusal)
    else:
        following = Starting(ended.stage, ended.number + 1, observed.refusal)
    if deadline.active_seconds_left(job.spec.failure_policy, base) == 0:
        return Failed(Reason.ACTIVE_DEADLINE_EXCEEDED, deadline.explain_active(job.spec.failure_policy))
    at = _next_start(job, base, ended, now, pace)
    is_early = ended.outcome is not AttemptOutcome.SUCCEEDED and not has_passed(at, now)
    return _hold_or(job, Restarting(ended, at) if is_early else following)


def _hold_or(job: FineTuneJob, standing: Standing) -> Standing:
    """Nothing is started while the user wants the job to stand still."""
    return Suspended() if job.spec is not None and job.spec.suspend else standing


def _next_start(
    job: FineTuneJob, base: FineTuneJobStatus, ended: Attempt, now: datetime, pace: Pace
) -> datetime:
    """When the attempt after this one may start."""
    since = parse_time(ended.ended) if ended.ended else now
    identity = f"{job.uid}/{child_name(job.name, ended.stage, ended.number)}"
    if ended.outcome is AttemptOutcome.FAILED:
        return retry.next_start(
            since,
            restarts=base.restarts,
            counted=ended.counted,
            first_delay=pace.first_restart_delay,
            identity=identity,
        )
    if ended.reason == Reason.GANG_INCOMPLETE:
        return gang_start.next_start(since, incomplete_gangs=base.incomplete_gangs, identity=identity)
    return since - timedelta(seconds=1)
