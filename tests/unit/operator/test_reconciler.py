"""What a FineTuneJob needs, by what is there: the whole decision, without a cluster."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from finetune_api.names import Stage
from finetune_api.reasons import Reason
from finetune_api.status import AttemptOutcome, FineTuneJobStatus, Phase
from finetune_operator.attempts import LookUp, LookUpKind
from finetune_operator.observation import Complaint, EventsSeen, JobState, Refusal
from finetune_operator.standing import Starting
from tests.unit.operator.builders import (
    EXPORTED_MESSAGE,
    NOW,
    PREPARED_MESSAGE,
    TRAINED_MESSAGE,
    job_in_training,
    make_child,
    make_ended_pod,
    make_job,
    make_pod,
    make_report,
    make_running_pod,
    observe,
    plan_for,
    seconds_ago,
    status_after,
)

NEVER_STARTED = FineTuneJobStatus()


def test_a_new_job_gets_its_first_prepare_attempt() -> None:
    assert plan_for(make_job(), observe()).create == Starting(Stage.PREPARE, 1)


def test_the_created_attempt_is_in_the_status_that_is_written() -> None:
    child = make_child(age_seconds=0)

    plan = plan_for(make_job(), observe(child))

    assert plan.create is None
    assert plan.status.phase is Phase.PENDING
    assert [(a.stage, a.number, a.job_uid) for a in plan.status.attempts] == [(Stage.PREPARE, 1, child.uid)]
    assert plan.status.start_time == "2026-01-01T12:00:00Z"


def test_the_same_facts_give_the_same_plan() -> None:
    job, train = job_in_training()
    facts = observe(train, make_running_pod(train))

    assert plan_for(job, facts).status == job.status
    assert plan_for(job, facts) == plan_for(job, facts)


@pytest.mark.parametrize(
    ("stage", "message", "following"),
    [
        pytest.param(Stage.PREPARE, PREPARED_MESSAGE, Stage.TRAIN, id="training follows preparing"),
        pytest.param(Stage.TRAIN, TRAINED_MESSAGE, Stage.EXPORT, id="export follows training"),
    ],
)
def test_a_stage_that_succeeded_is_followed_by_the_next(
    stage: Stage, message: dict[str, object], following: Stage
) -> None:
    child = make_child(stage)
    job = make_job(status=status_after(make_job(), child))

    plan = plan_for(job, observe(child, make_ended_pod(child, message=message)))

    assert plan.create == Starting(following, 1)


@pytest.mark.parametrize(
    ("outputs", "sentence"),
    [
        pytest.param(("s3://a", "s3://m"), "The model stands at s3://m.", id="adapter and merged model"),
        pytest.param((None, "s3://m"), "The model stands at s3://m.", id="a model without an adapter"),
        pytest.param(
            ("s3://a", None),
            "The adapter stands at s3://a; it is used with its base model.",
            id="an adapter that is not merged",
        ),
    ],
)
def test_the_last_stage_ends_the_job_with_its_outputs(
    outputs: tuple[str | None, str | None], sentence: str
) -> None:
    child = make_child(Stage.EXPORT)
    job = make_job(status=status_after(make_job(), child))
    uris = {key: uri for key, uri in zip(("adapterUri", "mergedUri"), outputs, strict=True) if uri}

    message = {**EXPORTED_MESSAGE, "exported": {"manifestDigest": "e", **uris}}
    status = status_after(job, child, make_ended_pod(child, message=message))

    assert status.phase is Phase.SUCCEEDED
    assert (status.outputs.adapter_uri, status.outputs.merged_uri) == outputs
    assert status.message == sentence
    assert status.completion_time == "2026-01-01T12:00:00Z"


def test_a_finished_job_stays_finished_without_any_children() -> None:
    child = make_child(Stage.EXPORT)
    done = status_after(make_job(status=status_after(make_job(), child)), child, make_ended_pod(child))

    plan = plan_for(make_job(status=done), observe())

    assert (plan.create, plan.look_ups, plan.status) == (None, (), done)


def test_a_finished_job_only_notes_that_it_saw_a_newer_spec() -> None:
    child = make_child(Stage.EXPORT)
    done = status_after(make_job(status=status_after(make_job(), child)), child, make_ended_pod(child))

    status = status_after(make_job(status=done, generation=2))

    assert status == done.model_copy(update={"observed_generation": 2})


def test_a_job_that_is_being_deleted_is_left_to_the_garbage_collector() -> None:
    plan = plan_for(make_job(deleting=True), observe())

    assert (plan.create, plan.delete, plan.status) == (None, (), NEVER_STARTED)


# --- what watches have not delivered ------------------------------------------------------------------------------


def test_a_child_that_the_watch_does_not_know_is_looked_up_before_it_counts_as_missing() -> None:
    job, train = job_in_training()

    plan = plan_for(job, observe())

    assert plan.look_ups == (LookUp(LookUpKind.JOB, "bot-train-1", train.uid),)
    assert plan.status == job.status


def test_a_child_that_is_missing_for_certain_is_a_deleted_attempt_and_the_next_one_follows() -> None:
    job, _ = job_in_training()

    plan = plan_for(job, observe(absent_jobs=frozenset({"bot-train-1"})))

    assert plan.status.phase is Phase.RESTARTING
    assert plan.status.attempts[-1].reason == "Deleted"
    assert plan.status.attempts[-1].counted
    assert plan.requeue_seconds == pytest.approx(5.5, abs=0.5)


def test_the_next_attempt_waits_until_a_deleted_jobs_pod_has_ended() -> None:
    job, train = job_in_training()
    terminating = make_running_pod(train, deletion_deadline=NOW + timedelta(seconds=100))

    plan = plan_for(job, observe(terminating, absent_jobs=frozenset({"bot-train-1"})))

    assert plan.create is None
    assert plan.status.attempts[-1].outcome is AttemptOutcome.RUNNING


def test_the_pods_of_a_failed_job_are_looked_up_before_the_failure_is_classified() -> None:
    job, train = job_in_training()
    failed = replace(train, state=JobState.FAILED, reason="BackoffLimitExceeded")

    plan = plan_for(job, observe(failed))

    assert plan.look_ups == (LookUp(LookUpKind.PODS, "bot-train-1", train.uid),)


def test_a_failed_job_without_any_pod_is_a_deleted_pod() -> None:
    job, train = job_in_training()
    failed = replace(train, state=JobState.FAILED, reason="BackoffLimitExceeded")

    status = status_after(job, failed, jobs_with_all_pods=frozenset({train.uid}))

    assert status.attempts[-1].reason == "Deleted"


def test_children_made_right_before_a_kill_are_adopted_in_order() -> None:
    """Status knows nothing, but prepare has ended and train runs: nothing is created, and prepare's facts count."""
    prepare, train = make_child(Stage.PREPARE), make_child(Stage.TRAIN)
    done = make_ended_pod(prepare, message=PREPARED_MESSAGE)

    plan = plan_for(make_job(), observe(train, prepare, done, make_running_pod(train)))

    assert plan.create is None
    assert plan.status.phase is Phase.TRAINING
    assert plan.status.provenance.rows_used == 480
    assert [a.outcome for a in plan.status.attempts] == [AttemptOutcome.SUCCEEDED, AttemptOutcome.RUNNING]


def test_a_next_attempt_made_right_before_a_kill_keeps_its_count() -> None:
    first, second = make_child(attempt=1), make_child(attempt=2, age_seconds=0)
    job = make_job(status=status_after(make_job(), first))

    status = status_after(job, first, make_ended_pod(first, 20), second)

    assert (status.restarts, len(status.attempts)) == (1, 2)
    assert status.attempts[0].reason == "StorageUnavailable"


def test_a_child_of_another_name_is_never_adopted() -> None:
    stranger = replace(make_child(), name="bot-something-else")

    assert plan_for(make_job(), observe(stranger)).create == Starting(Stage.PREPARE, 1)


# --- failures and restarts ----------------------------------------------------------------------------------------


def test_a_failure_that_time_heals_leads_to_the_next_attempt_after_a_pause() -> None:
    job, train = job_in_training()
    failed = make_ended_pod(train, 20, ended_seconds_ago=0)
    waiting = make_job(status=status_after(job, train, failed))

    assert waiting.status.phase is Phase.RESTARTING
    assert plan_for(waiting, observe(train, failed)).create is None
    later = plan_for(waiting, observe(train, failed), NOW + timedelta(seconds=7))
    assert later.create == Starting(Stage.TRAIN, 2)


def test_the_pause_doubles_with_every_counted_restart() -> None:
    job, train = job_in_training()
    failed = make_ended_pod(train, 20, ended_seconds_ago=0)
    worn = job.status.model_copy(update={"restarts": 2})

    plan = plan_for(make_job(status=worn), observe(train, failed))

    assert plan.requeue_seconds is not None
    assert 20 <= plan.requeue_seconds <= 24


def test_a_failure_that_trying_again_cannot_heal_ends_the_job() -> None:
    job, train = job_in_training()
    message = {
        "reason": "UserError",
        "message": "spec.training.maxSteps is lower than the checkpoint's step.",
    }

    status = status_after(job, train, make_ended_pod(train, 10, message=message))

    assert (status.phase, status.reason) == (Phase.FAILED, "UserError")
    assert status.message == message["message"]
    assert status.restarts == 0


def test_the_last_restart_that_fails_ends_the_job() -> None:
    job, train = job_in_training(failurePolicy__maxRestarts=3)
    worn = job.status.model_copy(update={"restarts": 3})

    status = status_after(make_job(status=worn), train, make_ended_pod(train, 20))

    assert (status.phase, status.reason, status.restarts) == (Phase.FAILED, Reason.RESTARTS_EXHAUSTED, 3)


def test_a_preemption_after_a_new_checkpoint_is_not_counted() -> None:
    job, train = job_in_training(failurePolicy__maxRestarts=0)
    checkpoint = {"step": 10, "uri": "s3://c/10", "time": "2026-01-01T11:59:30Z"}
    reported = make_report(train, 10, checkpoint=checkpoint)

    status = status_after(job, train, make_ended_pod(train, 22), reported)

    assert (status.phase, status.restarts, status.preemptions) == (Phase.RESTARTING, 0, 1)


def test_a_preemption_without_a_new_checkpoint_is_counted_so_that_nothing_loops_for_ever() -> None:
    job, train = job_in_training(failurePolicy__maxRestarts=0)
    old = {"step": 10, "uri": "s3://c/10", "time": "2026-01-01T11:00:00Z"}

    status = status_after(job, train, make_ended_pod(train, 22), make_report(train, 10, checkpoint=old))

    assert (status.phase, status.reason) == (Phase.FAILED, Reason.RESTARTS_EXHAUSTED)


def test_a_checkpoint_that_only_the_termination_message_tells_of_counts_too() -> None:
    job, train = job_in_training(failurePolicy__maxRestarts=0)
    trained = {"step": 40, "loss": 1.0, "checkpointUri": "s3://c/40"}
    message = {"reason": "Preempted", "message": "Saved step 40.", "step": 40, "trained": trained}

    status = status_after(job, train, make_ended_pod(train, 22, message=message))

    assert status.preemptions == 1
    assert status.checkpoint is not None
    assert status.checkpoint.step == 40


def test_restarts_are_counted_within_a_stage() -> None:
    job, train = job_in_training()
    worn = job.status.model_copy(update={"restarts": 2})
    export = make_child(Stage.EXPORT, age_seconds=0)

    status = status_after(
        make_job(status=worn), train, make_ended_pod(train, message=TRAINED_MESSAGE), export
    )

    assert status.restarts == 0


def test_a_pod_on_a_node_that_never_confirms_its_end_is_given_up() -> None:
    job, train = job_in_training()
    lost = make_running_pod(train, deletion_deadline=seconds_ago(61))

    plan = plan_for(job, observe(train, lost))

    assert plan.status.attempts[-1].reason == "NodeLost"
    assert [child.name for child in plan.delete] == ["bot-train-1"]


def test_before_that_it_is_looked_at_again_in_time() -> None:
    job, train = job_in_training()
    hanging = make_running_pod(train, deletion_deadline=seconds_ago(20))

    plan = plan_for(job, observe(train, hanging))

    assert plan.status.attempts[-1].outcome is AttemptOutcome.RUNNING
    assert plan.requeue_seconds == pytest.approx(41)


def test_the_history_is_capped_and_numbering_goes_on() -> None:
    job, _ = job_in_training(failurePolicy__maxRestarts=1000)
    for number in range(1, 30):
        child, following = make_child(Stage.TRAIN, number), make_child(Stage.TRAIN, number + 1, age_seconds=0)
        job = job.with_status(status_after(job, child, make_ended_pod(child, 20), following))

    assert [a.number for a in job.status.attempts] == list(range(21, 31))
    assert job.status.restarts == 29
    assert job.status.conditions[1].status == "True", "prepare fell out of the history but is done"


# --- specs that do not parse --------------------------------------------------------------------------------------


def test_a_spec_that_does_not_parse_fails_this_job_with_the_field() -> None:
    status = status_after(make_job(training__learningRate=7))

    assert (status.phase, status.reason) == (Phase.FAILED, Reason.INVALID_SPEC)
    assert status.message is not None
    assert "spec.training.learningRate" in status.message


def test_a_corrected_spec_is_taken_up() -> None:
    rejected = status_after(make_job(training__learningRate=7))

    plan = plan_for(make_job(status=rejected, generation=2), observe())

    assert plan.create == Starting(Stage.PREPARE, 1)
    status = status_after(make_job(status=rejected, generation=2), make_child(age_seconds=0))
    assert status.phase is Phase.PENDING
    assert status.completion_time is None


# --- refusals, waiting, progress ----------------------------------------------------------------------------------


def test_a_creation_that_was_refused_is_explained_and_tried_again() -> None:
    refusal = Refusal(Reason.QUOTA_EXCEEDED, "exceeded quota: none")

    plan = plan_for(make_job(), observe(refusal=refusal))

    assert plan.create is None
    assert (plan.status.phase, plan.status.reason) == (Phase.PENDING, Reason.QUOTA_EXCEEDED)
    assert plan.requeue_seconds == 5


def test_the_events_of_a_job_without_pod_are_looked_at_after_three_seconds() -> None:
    early, late = make_child(age_seconds=1), make_child(age_seconds=3)
    job = make_job(status=status_after(make_job(), early))

    assert plan_for(job, observe(early)).requeue_seconds == 2
    assert plan_for(job, observe(late)).look_ups == (LookUp(LookUpKind.EVENTS, late.name, late.uid),)


def test_the_events_of_a_pod_that_does_not_start_are_looked_at_after_five_seconds() -> None:
    child = make_child()
    early, late = make_pod(child, age_seconds=4), make_pod(child, age_seconds=5)
    job = make_job(status=status_after(make_job(), child))

    assert plan_for(job, observe(child, early)).requeue_seconds == 1
    assert plan_for(job, observe(child, late)).look_ups == (LookUp(LookUpKind.EVENTS, child.name, late.uid),)


def test_long_waits_are_looked_at_ever_more_rarely() -> None:
    child = make_child(age_seconds=7300)
    pod = make_pod(child, age_seconds=7200)
    seen = {pod.uid: EventsSeen(Complaint("FailedMount", "x"), NOW)}

    assert plan_for(make_job(), observe(child, pod, events=seen)).requeue_seconds == 300


def test_what_a_waiting_train_stage_lacks_is_its_reason_while_it_is_queued() -> None:
    child = make_child(Stage.TRAIN)
    pod = make_pod(
        child, node=None, unschedulable_message="0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    )
    job = make_job(status=status_after(make_job(), child))

    status = status_after(job, child, pod, events={pod.uid: EventsSeen(None, NOW)})

    assert (status.phase, status.reason) == (Phase.QUEUED, Reason.UNSCHEDULABLE)
    assert status.message is not None
    assert "3 Insufficient nvidia.com/gpu" in status.message


def test_the_first_figures_are_written_at_once() -> None:
    job, train = job_in_training()

    status = status_after(job, train, make_running_pod(train), make_report(train, 1))

    assert status.display.step == "1/90"
    assert status.attempts[-1].step == 1


def test_figures_are_written_at_most_once_an_interval() -> None:
    job, train = job_in_training()
    pod = make_running_pod(train)
    job = job.with_status(status_after(job, train, pod, make_report(train, 1)))

    soon = plan_for(job, observe(train, pod, make_report(train, 2)), NOW + timedelta(seconds=4))
    later = plan_for(job, observe(train, pod, make_report(train, 2)), NOW + timedelta(seconds=11))

    assert soon.status == job.status
    assert soon.requeue_seconds == 7  # The written time has no fractions, so a second is added.
    assert later.status.display.step == "2/90"


def test_with_a_transition_the_newest_figures_go_along_at_once() -> None:
    job, train = job_in_training()
    job = job.with_status(status_after(job, train, make_running_pod(train), make_report(train, 1)))

    status = status_after(job, train, make_ended_pod(train, 20), make_report(train, 2))

    assert (status.phase, status.display.step) == (Phase.RESTARTING, "2/90")


def test_a_report_of_an_earlier_attempt_changes_nothing() -> None:
    job, train = job_in_training()

    status = status_after(job, train, make_running_pod(train), make_report(make_child(Stage.TRAIN, 7), 50))

    assert status == job.status


def test_the_image_of_the_first_training_is_kept() -> None:
    job, train = job_in_training()

    assert job.status.provenance.trainer_image == "trainer:1"
    second = make_child(Stage.TRAIN, 2)
    status = status_after(
        job, train, make_ended_pod(train, 20), second, make_running_pod(second, image="trainer:9")
    )
    assert status.provenance.trainer_image == "trainer:1"
