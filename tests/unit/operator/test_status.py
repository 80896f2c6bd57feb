"""Status: conditions, the display's texts, and what tells people what happened."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from finetune_api.names import Stage
from finetune_api.reasons import Reason
from finetune_api.status import Condition, ConditionStatus, ConditionType, FineTuneJobStatus, Phase
from finetune_api.termination import TerminationMessage
from finetune_operator import conditions
from finetune_operator.conditions import Verdict
from finetune_operator.events import decide_events
from finetune_operator.observation import Refusal
from finetune_operator.times import format_duration
from tests.unit.operator.builders import (
    EXPORTED_MESSAGE,
    NOW,
    PREPARED_FACTS,
    PREPARED_MESSAGE,
    SUMMARY,
    job_in_training,
    make_child,
    make_ended_pod,
    make_job,
    make_pod,
    make_report,
    make_running_pod,
    seconds_ago,
    status_after,
)


def truths(status: FineTuneJobStatus) -> dict[str, str]:
    """Reason of every condition that is True."""
    return {each.type: each.reason for each in status.conditions if each.status is ConditionStatus.TRUE}


def test_every_condition_stands_from_the_first_write_on() -> None:
    status = status_after(make_job(), make_child(age_seconds=0))

    assert [each.type for each in status.conditions] == list(ConditionType)
    assert truths(status) == {"Accepted": "Accepted"}


def test_conditions_follow_the_stages() -> None:
    job, train = job_in_training()
    assert truths(job.status) == {"Accepted": "Accepted", "Prepared": "Prepared", "Running": "Training"}

    export = make_child(Stage.EXPORT)
    exporting = make_job(
        status=status_after(job, train, make_ended_pod(train), export, make_running_pod(export))
    )
    assert truths(exporting.status) == {"Accepted": "Accepted", "Prepared": "Prepared"}

    done = status_after(exporting, export, make_ended_pod(export, message=EXPORTED_MESSAGE))
    assert truths(done) == {
        "Accepted": "Accepted",
        "Prepared": "Prepared",
        "Exported": "Exported",
        "Succeeded": "Succeeded",
        "Finished": "Succeeded",
    }


def test_a_failed_job_is_finished_too_so_that_kubectl_wait_need_not_hang() -> None:
    child = make_child()
    job = make_job(status=status_after(make_job(), child, make_running_pod(child)))

    status = status_after(job, child, make_ended_pod(child, 11))

    assert truths(status) == {"Accepted": "Accepted", "Failed": "DataError", "Finished": "DataError"}


def test_a_transition_time_moves_only_with_the_status() -> None:
    before = [
        Condition(
            type="Failed",
            status=ConditionStatus.FALSE,
            reason="A",
            last_transition_time="2026-01-01T00:00:00Z",
        )
    ]

    def set_to(status: ConditionStatus) -> Condition:
        verdict = Verdict(ConditionType.FAILED, status, "B", "m")
        return conditions.set_conditions(before, [verdict], generation=3, now=NOW)[0]

    same, other = set_to(ConditionStatus.FALSE), set_to(ConditionStatus.TRUE)
    assert (same.last_transition_time, same.reason, same.observed_generation) == (
        "2026-01-01T00:00:00Z",
        "B",
        3,
    )
    assert other.last_transition_time == "2026-01-01T12:00:00Z"


def test_the_columns_of_kubectl_are_texts() -> None:
    job, train = job_in_training(parallelism__gpusPerNode=0, model__source="s3://models/qwen3-0.6b/")

    display = status_after(job, train, make_running_pod(train), make_report(train, 12, loss=0.123456)).display

    assert display.model_dump() == {
        "model": "qwen3-0.6b",
        "gpus": "cpu",
        "step": "12/90",
        "loss": "0.1235",
        "eta": "3m20s",
    }


def test_there_is_no_eta_once_training_has_ended() -> None:
    job, train = job_in_training()
    job = job.with_status(status_after(job, train, make_running_pod(train), make_report(train, 12)))

    assert status_after(job, train, make_ended_pod(train, 20)).display.eta == ""


def test_the_spec_that_was_read_is_the_observed_generation() -> None:
    status = status_after(make_job(generation=4), make_child(age_seconds=0))

    assert status.observed_generation == 4
    assert {each.observed_generation for each in status.conditions} == {4}


def test_preparing_fills_provenance_and_the_number_of_steps() -> None:
    prepare, train = make_child(), make_child(Stage.TRAIN, age_seconds=0)
    facts = {**PREPARED_FACTS, "modelRevision": "c1899de"}
    message = {**PREPARED_MESSAGE, "prepared": facts}

    status = status_after(make_job(), prepare, make_ended_pod(prepare, message=message), train)

    assert (status.provenance.rows_used, status.provenance.rows_dropped) == (480, 3)
    assert (status.provenance.model_revision, status.provenance.model_digest) == ("c1899de", "m")
    assert status.display.step == "0/90"
    assert status.outputs.report_uri == "s3://models/support-bot/runs/bot-01234567/data-report.html"


def prepared_message(status: FineTuneJobStatus) -> str:
    condition = conditions.find_condition(status.conditions, ConditionType.PREPARED)
    assert condition is not None
    return condition.message


def test_what_prepare_found_is_told_whole_by_condition_and_event() -> None:
    prepare, train = make_child(), make_child(Stage.TRAIN, age_seconds=0)

    status = status_after(make_job(), prepare, make_ended_pod(prepare, message=PREPARED_MESSAGE), train)

    assert prepared_message(status) == SUMMARY
    (event,) = (each for each in decide_events(FineTuneJobStatus(), status) if each.reason == "Prepared")
    assert event.short_message == SUMMARY


def test_what_prepare_found_is_still_told_when_its_attempt_has_gone_from_the_history() -> None:
    job, train = job_in_training()
    without = job.status.model_copy(
        update={"attempts": [each for each in job.status.attempts if each.stage is not Stage.PREPARE]}
    )

    status = status_after(job.with_status(without), train, make_running_pod(train), make_report(train, 12))

    assert prepared_message(status) == SUMMARY


def test_a_stage_that_left_no_message_is_done_all_the_same() -> None:
    prepare, train = make_child(), make_child(Stage.TRAIN, age_seconds=0)

    status = status_after(make_job(), prepare, make_ended_pod(prepare), train)

    assert status.phase is Phase.QUEUED


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.6, "1m00s"), (200, "3m20s"), (7500, "2h05m"), (273_600, "3d04h"), (-5, "0s")],
)
def test_durations_are_read_at_a_glance(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


# --- events -------------------------------------------------------------------------------------------------------


def reasons(old: FineTuneJobStatus, new: FineTuneJobStatus) -> list[tuple[str, str]]:
    return [(event.type, event.reason) for event in decide_events(old, new)]


def test_nothing_is_told_where_nothing_happened() -> None:
    job, _ = job_in_training()

    assert reasons(job.status, job.status) == []


def test_the_start_of_training_tells_of_both_transitions() -> None:
    job, _ = job_in_training()

    assert reasons(FineTuneJobStatus(), job.status) == [("Normal", "Prepared"), ("Normal", "Training")]


def test_a_failure_is_told_as_a_warning_with_its_class_and_the_restart_as_normal() -> None:
    job, train = job_in_training()

    status = status_after(job, train, make_ended_pod(train, 20))

    assert reasons(job.status, status) == [("Warning", "StorageUnavailable"), ("Normal", "Restarting")]


def test_the_end_of_a_job_by_its_last_failure_is_told_once() -> None:
    job, train = job_in_training()

    assert reasons(job.status, status_after(job, train, make_ended_pod(train, 14))) == [
        ("Warning", "NonFiniteLoss")
    ]


def test_a_complaint_is_told_when_it_begins() -> None:
    quota = status_after(make_job(), refusal=Refusal(Reason.QUOTA_EXCEEDED, "exceeded quota"))

    assert reasons(FineTuneJobStatus(), quota) == [("Warning", "QuotaExceeded")]
    assert reasons(quota, quota) == []


def test_the_first_report_of_a_resumed_attempt_tells_where_it_goes_on() -> None:
    job, train = job_in_training()
    report = make_report(train, 41, resumedFromStep=40)
    status = status_after(job, train, make_running_pod(train), report)

    (event,) = decide_events(job.status, status, report)

    assert (event.reason, event.message) == ("Resumed", "Attempt 1 goes on from the checkpoint of step 40.")
    assert decide_events(status, status, report) == ()


def test_an_event_told_twice_has_the_same_name() -> None:
    job, train = job_in_training()
    status = status_after(job, train, make_ended_pod(train, 20))
    first, second = (decide_events(job.status, status) for _ in range(2))

    assert [each.name("bot", "u") for each in first] == [each.name("bot", "u") for each in second]
    assert len({each.name("bot", "u") for each in first}) == 2


def test_messages_keep_to_the_limits_of_the_api() -> None:
    child = make_child()
    job = make_job(status=status_after(make_job(), child, make_running_pod(child)))
    message = {"reason": "DataError", "message": "x" * 3000}

    status = status_after(job, child, make_ended_pod(child, 11, message=message))

    lengths = {each.type: len(each.message) for each in status.conditions}
    assert lengths.pop("Failed") == 3000
    assert max(lengths.values()) <= 1024
    assert len(status.attempts[-1].message or "") <= 1024
    assert all(len(event.short_message) <= 1024 for event in decide_events(job.status, status))


def test_ten_bad_rows_are_all_in_the_status_and_as_many_as_fit_in_the_event_with_what_to_do() -> None:
    rows = [
        f"s3://data/train.jsonl line {n}: `messages` holds no turn of the assistant" for n in range(1, 11)
    ]
    action = "Correct them, or set invalidRows: Drop. Report: s3://models/bot/runs/bot-0/data-report.html"
    sentence = f"27 of 9,000 rows cannot be used (the first 10): {'; '.join(rows)}. {action}"
    message = TerminationMessage(reason="DataError", message=sentence)
    child = make_child()
    job = make_job(status=status_after(make_job(), child, make_running_pod(child)))

    status = status_after(job, child, make_ended_pod(child, 11, message=message.encode()))

    failed = conditions.find_condition(status.conditions, ConditionType.FAILED)
    assert failed is not None
    assert status.message == failed.message == sentence
    (event,) = decide_events(job.status, status)
    told = event.short_message
    assert len(told) <= 1024
    assert told.startswith(f"27 of 9,000 rows cannot be used (the first 10): {'; '.join(rows[:7])}")
    assert told.endswith(f"; … {action} Not restarted: DataError would happen again.")


def test_a_status_survives_its_way_through_the_api() -> None:
    job, train = job_in_training()
    status = status_after(job, train, make_ended_pod(train, 20), make_report(train, 3))

    assert FineTuneJobStatus.model_validate(status.model_dump(mode="json", exclude_none=True)) == status


def test_waiting_for_a_pod_does_not_move_the_phase_before_its_time() -> None:
    child = make_child(age_seconds=1)
    facts = (child, make_pod(child, age_seconds=1))

    status = status_after(make_job(), *facts)

    assert (status.phase, status.reason) == (Phase.PENDING, Reason.WAITING_FOR_POD)
    assert status_after(make_job(status=status), *facts, now=NOW + timedelta(seconds=1)) == status


def told(old: FineTuneJobStatus, new: FineTuneJobStatus) -> list[tuple[str, str]]:
    return [(event.type, event.reason) for event in decide_events(old, new)]


def test_a_suspension_and_its_end_are_told_once_each() -> None:
    job, train = job_in_training()
    wished = make_job(suspend=True, generation=2).with_status(job.status)
    stopping = status_after(wished, train, make_running_pod(train))
    gone: dict[str, Any] = {"absent_jobs": frozenset({train.name})}
    suspended = status_after(wished.with_status(stopping), make_ended_pod(train, 22), **gone)
    second = make_child(Stage.TRAIN, 2, age_seconds=1)
    again = status_after(make_job(generation=3).with_status(suspended), second)

    assert told(job.status, stopping) == []
    assert told(stopping, suspended) == [("Normal", Reason.SUSPENDED)]
    assert told(suspended, again) == [("Normal", Reason.UNSUSPENDED)]


def test_a_job_that_is_created_suspended_says_so() -> None:
    assert told(FineTuneJobStatus(), status_after(make_job(suspend=True))) == [("Normal", Reason.SUSPENDED)]


def test_a_retry_is_told() -> None:
    job, train = job_in_training()
    failed = status_after(job, train, make_ended_pod(train, 11))
    retried = status_after(make_job(retry=1, generation=2).with_status(failed), train)

    assert told(failed, retried)[0] == ("Normal", Reason.RETRIED)


def test_an_eviction_by_the_queue_is_told_although_the_attempt_goes_on() -> None:
    job, train = job_in_training(queueName="team")
    train = replace(train, suspended=True, queue="team", created=seconds_ago(4))

    assert told(job.status, status_after(job, train)) == [("Warning", Reason.KUEUE_EVICTED)]


def test_a_deadline_is_told_once() -> None:
    job, train = job_in_training(failurePolicy={"activeDeadlineSeconds": 60})
    stopping = status_after(job, train, make_running_pod(train), now=NOW + timedelta(seconds=60))
    gone: dict[str, Any] = {"absent_jobs": frozenset({train.name})}
    ended = status_after(job.with_status(stopping), make_ended_pod(train, 22), **gone)

    assert told(job.status, stopping) == []
    assert told(stopping, ended) == [("Warning", Reason.ACTIVE_DEADLINE_EXCEEDED)]
