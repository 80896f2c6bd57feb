"""What the user's wishes, the queue, gangs and deadlines do to an attempt, and what follows it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from finetune_api.names import Stage
from finetune_api.reasons import Reason
from finetune_api.status import AttemptOutcome, ConditionType, FineTuneJobStatus, Phase
from finetune_operator.attempts import LookUpKind
from finetune_operator.conditions import is_true
from finetune_operator.job_resource import FineTuneJob
from finetune_operator.observation import JobFacts, JobState, PodFacts, QueueSeen, Refusal
from finetune_operator.plan import Plan
from finetune_operator.spec_digest import spec_digest
from finetune_operator.standing import Starting
from tests.unit.operator.builders import (
    NOW,
    PREPARED_MESSAGE,
    SUMMARY,
    TRAINED_MESSAGE,
    job_in_training,
    make_child,
    make_ended_pod,
    make_job,
    make_pod,
    make_running_pod,
    observe,
    plan_for,
    seconds_ago,
    status_after,
)


def edited(job: FineTuneJob, **changes: Any) -> FineTuneJob:
    """The same job with another spec."""
    return make_job(generation=job.generation + 1, **changes).with_status(job.status)


def carried_out(job: FineTuneJob, *facts: Any, now: datetime = NOW, **more: Any) -> tuple[FineTuneJob, Plan]:
    """Reconcile, and take the status as written."""
    plan = plan_for(job, observe(*facts, **more), now)
    return job.with_status(plan.status), plan


def in_seconds(seconds: float) -> datetime:
    """A time after NOW."""
    return NOW + timedelta(seconds=seconds)


# --- suspend ---------------------------------------------------------------------------------------------------


def test_a_suspended_job_ends_its_pods_and_says_so_while_they_run() -> None:
    job, train = job_in_training()

    job, plan = carried_out(edited(job, suspend=True), train, make_running_pod(train))

    assert plan.stop == (train,)
    assert (plan.status.phase, plan.status.reason) == (Phase.TRAINING, Reason.SUSPENDING)
    assert is_true(plan.status.conditions, ConditionType.RUNNING)
    assert not is_true(plan.status.conditions, ConditionType.SUSPENDED)


def test_it_is_suspended_when_its_pods_have_ended_and_the_attempt_counts_as_no_failure() -> None:
    job, train = job_in_training()
    job, _ = carried_out(edited(job, suspend=True), train, make_running_pod(train))
    saved = make_ended_pod(train, 22, message={**TRAINED_MESSAGE, "reason": "Preempted"})

    job, plan = carried_out(job, saved, absent_jobs=frozenset({train.name}))

    assert (plan.status.phase, plan.status.reason) == (Phase.SUSPENDED, Reason.SUSPENDED)
    assert is_true(plan.status.conditions, ConditionType.SUSPENDED)
    newest = plan.status.attempts[-1]
    assert (newest.outcome, newest.reason) == (AttemptOutcome.STOPPED, Reason.SUSPENDED)
    assert plan.status.restarts == plan.status.preemptions == 0
    assert plan.status.checkpoint is not None
    assert "step 90" in (plan.status.message or "")
    assert plan_for(edited(job), observe()).create == Starting(Stage.TRAIN, 2)


def test_one_who_changes_their_mind_while_pods_end_gets_the_next_attempt() -> None:
    job, train = job_in_training()
    job, _ = carried_out(edited(job, suspend=True), train, make_running_pod(train))
    gone = observe(make_ended_pod(train, 22), absent_jobs=frozenset({train.name}))

    assert plan_for(edited(job), gone).create == Starting(Stage.TRAIN, 2)


def test_an_attempt_that_finished_while_it_was_told_to_go_has_succeeded() -> None:
    job, train = job_in_training()
    job, _ = carried_out(edited(job, suspend=True), train, make_running_pod(train))
    done = make_ended_pod(train, message=TRAINED_MESSAGE)

    job, plan = carried_out(job, replace(train, state=JobState.SUCCEEDED), done)

    assert plan.status.attempts[-1].outcome is AttemptOutcome.SUCCEEDED
    assert plan.status.phase is Phase.SUSPENDED
    assert plan_for(edited(job), observe()).create == Starting(Stage.EXPORT, 1)


def test_a_job_created_suspended_starts_nothing() -> None:
    plan = plan_for(make_job(suspend=True), observe())

    assert plan.create is None
    assert plan.status.phase is Phase.SUSPENDED


# --- edits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pod", "is_replaced"),
    [
        pytest.param(None, True, id="no pod yet"),
        pytest.param(make_pod(make_child(), node=None), True, id="no node takes the pod"),
        pytest.param(make_running_pod(make_child()), False, id="it runs"),
    ],
)
def test_an_attempt_that_has_not_started_is_replaced_when_the_spec_is_edited(
    pod: PodFacts | None, is_replaced: bool
) -> None:
    job = make_job()
    assert job.spec is not None
    child = make_child(spec_digest=spec_digest(job.spec), age_seconds=1)
    facts = [child, *([pod] if pod else [])]
    job, _ = carried_out(job, *facts)

    _, plan = carried_out(edited(job, resources__memory="64Gi"), *facts)

    assert plan.stop == ((child,) if is_replaced else ())


def test_an_edit_that_changes_no_child_replaces_none() -> None:
    job = make_job()
    assert job.spec is not None
    child = make_child(spec_digest=spec_digest(job.spec), age_seconds=1)
    job, _ = carried_out(job, child)

    _, plan = carried_out(edited(job, failurePolicy__maxRestarts=9), child)

    assert plan.stop == ()


# --- Kueue -----------------------------------------------------------------------------------------------------


def queued_job() -> tuple[FineTuneJob, JobFacts]:
    job, train = job_in_training(queueName="team")
    return job, replace(train, queue="team", created=seconds_ago(4))


def test_a_suspended_train_job_is_queued_and_nobody_repairs_it() -> None:
    train = make_child(Stage.TRAIN, queue="team", suspended=True, age_seconds=4)
    prepare = make_child()
    done = make_ended_pod(prepare, message=PREPARED_MESSAGE)

    plan = plan_for(make_job(queueName="team"), observe(prepare, done, train))

    assert (plan.status.phase, plan.status.reason) == (Phase.QUEUED, Reason.QUEUED)
    assert (plan.stop, plan.delete, plan.create) == ((), (), None)
    assert plan.status.waiting_since is None


def test_an_eviction_keeps_the_attempt_and_counts_as_preemption_once_its_pods_are_gone() -> None:
    job, train = queued_job()
    suspended = replace(train, suspended=True)

    job, going = carried_out(job, suspended, make_running_pod(train, deletion_deadline=in_seconds(30)))
    job, gone = carried_out(job, suspended)
    job, again = carried_out(job, suspended)

    assert (going.status.phase, going.status.reason) == (Phase.TRAINING, Reason.KUEUE_EVICTED)
    assert (gone.status.phase, gone.status.reason) == (Phase.QUEUED, Reason.KUEUE_EVICTED)
    assert (going.status.preemptions, gone.status.preemptions, again.status.preemptions) == (0, 1, 1)
    assert gone.status.active_seconds == 49 + 50  # The prepare stage's, and this run's.
    assert [attempt.number for attempt in gone.status.attempts if attempt.stage is Stage.TRAIN] == [1]
    assert gone.status.attempts[-1].outcome is AttemptOutcome.RUNNING


def test_readmission_goes_on_with_the_same_attempt() -> None:
    job, train = queued_job()
    job, _ = carried_out(job, replace(train, suspended=True))

    job, plan = carried_out(job, train, make_running_pod(train, uid="second", name="second"))

    assert plan.status.phase is Phase.TRAINING
    assert plan.status.preemptions == 1
    assert plan.status.attempts[-1].running_since is not None


def test_an_eviction_that_nobody_saw_is_noticed_by_the_new_pods() -> None:
    job, train = queued_job()
    younger = replace(make_running_pod(train, uid="second", name="second"), started=seconds_ago(5))

    _, plan = carried_out(job, train, younger)

    assert plan.status.preemptions == 1
    assert plan.status.attempts[-1].running_since == "2026-01-01T11:59:55Z"


def test_a_pod_that_was_told_to_go_is_no_failure_while_its_job_goes_on() -> None:
    job, train = queued_job()
    killed = make_ended_pod(train, 137, deletion_deadline=seconds_ago(1))

    suspended = plan_for(job, observe(replace(train, suspended=True), killed))
    admitted_again = plan_for(job, observe(train, killed))
    failed = plan_for(job, observe(replace(train, state=JobState.FAILED), killed))

    assert suspended.status.attempts[-1].outcome is AttemptOutcome.RUNNING
    assert suspended.status.phase is Phase.QUEUED
    assert admitted_again.status.attempts[-1].outcome is AttemptOutcome.RUNNING
    assert failed.status.attempts[-1].outcome is AttemptOutcome.FAILED


def test_an_evicted_pods_last_checkpoint_is_kept() -> None:
    job, train = queued_job()
    saved = make_ended_pod(train, 22, message=TRAINED_MESSAGE, deletion_deadline=seconds_ago(1), is_gone=True)

    _, plan = carried_out(job, replace(train, suspended=True), saved)

    assert plan.status.checkpoint is not None
    assert (plan.status.checkpoint.step, plan.status.attempts[-1].step) == (90, 90)


def test_what_a_pod_left_counts_although_it_is_gone() -> None:
    job, train = job_in_training()
    gone = make_ended_pod(train, 11, message={"reason": "DataError", "message": "Row 7."}, is_gone=True)

    _, plan = carried_out(job, replace(train, state=JobState.FAILED), gone)

    assert (plan.status.reason, plan.status.message) == ("DataError", "Row 7.")


@pytest.mark.parametrize(
    ("seen", "reason", "told"),
    [
        pytest.param(
            QueueSeen(exists=False, told="", looked_at=NOW),
            Reason.QUEUE_NOT_SERVED,
            "Kueue has made no Workload for it",
            id="no Workload",
        ),
        pytest.param(
            QueueSeen(exists=True, told="insufficient unused quota for nvidia.com/gpu", looked_at=NOW),
            Reason.QUEUED,
            "waits in queue 'team'. insufficient unused quota for nvidia.com/gpu.",
            id="no quota",
        ),
    ],
)
def test_a_long_wait_in_a_queue_is_explained(seen: QueueSeen, reason: Reason, told: str) -> None:
    prepare, train = make_child(), make_child(Stage.TRAIN, queue="team", suspended=True, age_seconds=61)
    job, facts = (
        make_job(queueName="team"),
        (prepare, make_ended_pod(prepare, message=PREPARED_MESSAGE), train),
    )

    asked = plan_for(job, observe(*facts))
    plan = plan_for(job, observe(*facts, queues={train.uid: seen}))

    assert [look_up.kind for look_up in asked.look_ups] == [LookUpKind.QUEUE]
    assert plan.status.reason == reason
    assert told in (plan.status.message or "")


# --- gangs -----------------------------------------------------------------------------------------------------


def gang_of_two(**changes: Any) -> tuple[FineTuneJob, JobFacts, PodFacts, PodFacts]:
    prepare = make_child()
    train = make_child(Stage.TRAIN, size=2, age_seconds=2)
    done = make_ended_pod(prepare, message=PREPARED_MESSAGE)
    job = make_job(parallelism__nodes=2, **changes)
    job = job.with_status(status_after(job, prepare, done, train))
    first = make_running_pod(train, rank=0, uid="rank-0", name="rank-0")
    second = make_running_pod(train, rank=1, uid="rank-1", name="rank-1", node="node-2")
    return job, train, first, second


def test_a_gang_trains_when_all_its_pods_run() -> None:
    job, train, first, second = gang_of_two()

    alone = plan_for(job, observe(train, first))
    together = plan_for(job, observe(train, first, second))

    assert alone.status.phase is Phase.QUEUED
    assert together.status.phase is Phase.TRAINING


def test_a_gang_is_waited_for_until_its_last_pod_has_ended() -> None:
    job, train, first, second = gang_of_two()
    job, _ = carried_out(job, train, first, second)
    crashed = make_ended_pod(train, 1, rank=1, uid="rank-1", name="rank-1", node="node-2")
    failing = replace(train, state=JobState.FAILED)

    still = plan_for(job, observe(failing, replace(first, deletion_deadline=in_seconds(30)), crashed))
    first_saved = make_ended_pod(
        train, 22, rank=0, uid="rank-0", name="rank-0", deletion_deadline=in_seconds(30)
    )
    ended = plan_for(job, observe(failing, first_saved, crashed))

    assert still.status.attempts[-1].outcome is AttemptOutcome.RUNNING
    newest = ended.status.attempts[-1]
    assert (newest.outcome, newest.reason, newest.rank, newest.node) == (
        AttemptOutcome.FAILED,
        "Unknown",
        1,
        "node-2",
    )


def test_a_gang_with_a_pod_on_a_dead_node_is_ended_first() -> None:
    job, train, first, second = gang_of_two()
    job, _ = carried_out(job, train, first, second)
    lost = replace(second, deletion_deadline=seconds_ago(61))
    saved = make_ended_pod(train, 22, rank=0, uid="rank-0", deletion_deadline=seconds_ago(1))

    job, stopping = carried_out(job, train, first, lost)
    job, ended = carried_out(job, replace(train, deleting=True), saved, lost)

    assert stopping.stop == (train,)
    assert stopping.status.attempts[-1].outcome is AttemptOutcome.RUNNING
    newest = ended.status.attempts[-1]
    assert (newest.outcome, newest.reason, newest.node) == (AttemptOutcome.FAILED, "NodeLost", "node-2")


def test_half_a_gang_gives_its_nodes_back_and_tries_again_uncounted() -> None:
    job, train, first, _ = gang_of_two(failurePolicy={"gangStartTimeoutSeconds": 30})

    job, stopping = carried_out(job, train, first)
    job, ended = carried_out(
        job, make_ended_pod(train, 137, uid="rank-0"), absent_jobs=frozenset({train.name})
    )

    assert stopping.stop == (train,)
    assert stopping.status.attempts[-1].reason == Reason.GANG_INCOMPLETE
    assert ended.status.phase is Phase.RESTARTING
    assert (ended.status.restarts, ended.status.incomplete_gangs) == (0, 1)
    assert ended.requeue_seconds is not None
    assert 9 <= ended.requeue_seconds <= 20


def test_a_gang_without_any_node_holds_nothing_back_and_waits() -> None:
    job, train, _, _ = gang_of_two(failurePolicy={"gangStartTimeoutSeconds": 30})
    unplaced = make_pod(train, node=None, unschedulable_message="0/2 nodes are available.")

    plan = plan_for(job, observe(train, unplaced))

    assert plan.stop == ()
    assert plan.status.reason == Reason.UNSCHEDULABLE


# --- deadlines -------------------------------------------------------------------------------------------------


def test_the_active_deadline_bounds_all_attempts_together() -> None:
    job, train = job_in_training(failurePolicy={"activeDeadlineSeconds": 100})
    job = job.with_status(job.status.model_copy(update={"active_seconds": 45}))
    pod = make_running_pod(train)

    early = plan_for(job, observe(train, pod))
    job, late = carried_out(job, train, pod, now=in_seconds(6))
    _, ended = carried_out(job, make_ended_pod(train, 22), absent_jobs=frozenset({train.name}))

    assert early.stop == ()
    assert early.requeue_seconds == pytest.approx(5, abs=1)
    assert late.stop == (train,)
    assert (ended.status.phase, ended.status.reason) == (Phase.FAILED, Reason.ACTIVE_DEADLINE_EXCEEDED)


def test_no_attempt_is_started_that_could_not_run() -> None:
    job, train = job_in_training(failurePolicy={"activeDeadlineSeconds": 20})

    _, plan = carried_out(job, train, make_ended_pod(train, 20))

    assert plan.create is None
    assert plan.status.reason == Reason.ACTIVE_DEADLINE_EXCEEDED


def test_a_job_that_waits_for_too_long_fails_with_what_it_waited_for() -> None:
    child = make_child()
    pod = make_pod(child, node=None, unschedulable_message="0/1 nodes are available: 1 Insufficient cpu.")
    job, _ = carried_out(make_job(failurePolicy={"pendingDeadlineSeconds": 60}), child, pod)

    job, waits = carried_out(job, child, pod, now=in_seconds(59))
    job, stopping = carried_out(job, child, pod, now=in_seconds(60))
    _, ended = carried_out(job, absent_jobs=frozenset({child.name}), now=in_seconds(61))

    assert waits.stop == ()
    assert stopping.stop == (child,)
    assert (ended.status.phase, ended.status.reason) == (Phase.FAILED, Reason.PENDING_DEADLINE_EXCEEDED)
    assert "Insufficient cpu" in (ended.status.message or "")


def test_a_refused_creation_is_bounded_by_the_pending_deadline_too() -> None:
    job = make_job(failurePolicy={"pendingDeadlineSeconds": 60})
    refusal = Refusal(Reason.QUOTA_EXCEEDED, "exceeded quota: jobs.")
    job, waits = carried_out(job, refusal=refusal)

    _, ended = carried_out(job, refusal=refusal, now=in_seconds(60))

    assert (waits.status.phase, waits.status.waiting_since) == (Phase.PENDING, "2026-01-01T12:00:00Z")
    assert ended.status.reason == Reason.PENDING_DEADLINE_EXCEEDED
    assert "exceeded quota: jobs." in (ended.status.message or "")


def test_what_can_never_be_created_fails_at_once() -> None:
    refusal = Refusal(Reason.INVALID_SPEC, "Job bot-prepare-1 cannot be made from this spec: too long.")

    plan = plan_for(make_job(), observe(refusal=refusal))

    assert (plan.status.phase, plan.status.reason) == (Phase.FAILED, Reason.INVALID_SPEC)


# --- memory, retry, dry run ------------------------------------------------------------------------------------


def test_out_of_memory_is_followed_by_an_attempt_with_smaller_micro_batches() -> None:
    job, train = job_in_training()

    job, plan = carried_out(job, train, make_ended_pod(train, 12))

    assert plan.status.memory_backoff == plan.status.restarts == 1
    assert plan.status.attempts[-1].decision == (
        "Restarted with micro-batches of half the size: restart 1 of 3 (spec.failurePolicy.maxRestarts)."
    )
    assert plan_for(job, observe(train, make_ended_pod(train, 12)), in_seconds(60)).create == Starting(
        Stage.TRAIN, 2
    )


def failed_job() -> FineTuneJob:
    job, train = job_in_training()
    job, plan = carried_out(job, train, make_ended_pod(train, 11))
    assert plan.status.phase is Phase.FAILED
    return job


def test_raising_retry_starts_the_next_attempt_of_the_stage_that_failed() -> None:
    plan = plan_for(edited(failed_job(), retry=1), observe(), in_seconds(10))

    assert plan.create == Starting(Stage.TRAIN, 2)
    assert plan.status.observed_retry == 1
    assert plan.status.restarts == 0


def test_a_retry_that_was_acted_on_is_not_acted_on_again() -> None:
    job = edited(failed_job(), retry=1)
    second = make_child(Stage.TRAIN, 2)
    job, plan = carried_out(job, second, make_ended_pod(second, 11))

    assert plan.status.phase is Phase.FAILED
    assert plan_for(job, observe(second)).create is None


def test_a_retry_of_a_job_that_has_not_failed_is_no_promise() -> None:
    job, train = job_in_training()
    job, _ = carried_out(edited(job, retry=4), train, make_running_pod(train))
    job, plan = carried_out(job, train, make_ended_pod(train, 11))

    assert job.status.observed_retry == 4
    assert plan.status.phase is Phase.FAILED
    assert plan_for(job, observe(train)).create is None


def test_a_retry_of_a_succeeded_job_changes_nothing() -> None:
    status = FineTuneJobStatus.model_validate(
        {
            "phase": "Succeeded",
            "conditions": [
                {
                    "type": kind,
                    "status": "True",
                    "reason": "Succeeded",
                    "lastTransitionTime": "2026-01-01T11:00:00Z",
                }
                for kind in ("Succeeded", "Finished")
            ],
        }
    )
    plan = plan_for(make_job(status=status, retry=1, generation=2), observe())

    assert plan.create is None
    assert (plan.status.phase, plan.status.observed_retry) == (Phase.SUCCEEDED, 1)


def test_a_dry_run_ends_after_prepare() -> None:
    prepare = make_child()

    plan = plan_for(
        make_job(stopAfter="Prepare"), observe(prepare, make_ended_pod(prepare, message=PREPARED_MESSAGE))
    )

    assert plan.create is None
    assert (plan.status.phase, plan.status.reason) == (Phase.SUCCEEDED, Reason.STOPPED_AFTER_PREPARE)
    assert plan.status.message == (
        f"{SUMMARY} The report stands at s3://models/support-bot/runs/bot-01234567/data-report.html; "
        "spec.stopAfter is Prepare."
    )


def test_a_dry_run_that_left_no_message_names_no_report() -> None:
    prepare = make_child()

    plan = plan_for(make_job(stopAfter="Prepare"), observe(prepare, make_ended_pod(prepare)))

    assert plan.status.reason == Reason.STOPPED_AFTER_PREPARE
    assert plan.status.message is not None
    assert plan.status.message.endswith("spec.stopAfter is Prepare.")
    assert "None" not in plan.status.message
