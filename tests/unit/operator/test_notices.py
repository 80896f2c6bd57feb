"""What a trainer warns of while it trains: shown while it holds, told once each time it begins."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from finetune_api.names import Stage
from finetune_api.progress import NoticeReason
from finetune_api.status import ConditionStatus, ConditionType, FineTuneJobStatus, Phase
from finetune_operator.conditions import find_condition
from finetune_operator.events import JobEvent, decide_events
from finetune_operator.job_resource import FineTuneJob
from finetune_operator.observation import JobFacts, JobState, ReceivedReport
from tests.unit.operator.builders import (
    NOW,
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

STORE = NoticeReason.STORE_UNAVAILABLE
RARER = NoticeReason.SAVES_ARE_RARER
GRACE = NoticeReason.GRACE_PERIOD_TOO_SHORT
TRAINS = "Job bot-train-1 trains."


def in_seconds(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def report_of(
    train: JobFacts, *told: NoticeReason | tuple[NoticeReason, str], at: float = 0
) -> ReceivedReport:
    """A report so many seconds after NOW. A notice says `<reason> happens.` where nothing else is said."""
    pairs = [each if isinstance(each, tuple) else (each, f"{each} happens.") for each in told]
    notices = [{"reason": reason, "message": message} for reason, message in pairs]
    return make_report(train, 10, received_seconds_ago=-at, notices=notices)


class Course:
    """A job that trains, and the reports of its pod one after the other; what is decided is carried out."""

    def __init__(self, **changes: Any) -> None:
        self.job, self.train = job_in_training(**changes)
        self.changes = changes

    @property
    def status(self) -> FineTuneJobStatus:
        return self.job.status

    def report(self, *told: NoticeReason | tuple[NoticeReason, str], at: float = 0) -> tuple[JobEvent, ...]:
        """The events that a report leads to."""
        return self.see(report_of(self.train, *told, at=at), make_running_pod(self.train), at=at)

    def see(self, report: ReceivedReport | None, *facts: Any, at: float = 0) -> tuple[JobEvent, ...]:
        """The events that these facts lead to."""
        children = [] if any(isinstance(each, JobFacts) for each in facts) else [self.train]
        old, told = self.status, [report] if report else []
        status = status_after(self.job, *children, *facts, *told, now=in_seconds(at))
        self.job = self.job.with_status(status)
        return decide_events(old, status, report)


def names_of(events: tuple[JobEvent, ...]) -> list[str]:
    return [event.name("bot", "uid") for event in events]


def running_of(status: FineTuneJobStatus) -> tuple[ConditionStatus, str, str]:
    running = find_condition(status.conditions, ConditionType.RUNNING)
    assert running is not None
    return running.status, running.reason, running.message


# --- shown --------------------------------------------------------------------------------------------------------


def test_the_first_notice_is_the_message_and_all_stand_in_the_running_condition() -> None:
    course = Course()

    course.report((STORE, "The store does not answer since 12:00."), RARER)

    assert course.status.message == "The store does not answer since 12:00."
    assert (course.status.phase, course.status.reason) == (Phase.TRAINING, "Training")
    told = "The trainer warns of StoreUnavailable, SavesAreRarer."
    assert running_of(course.status) == (ConditionStatus.TRUE, "Training", told)


def test_without_a_notice_nothing_is_shown() -> None:
    course = Course()

    course.report()

    assert course.status.message == TRAINS
    assert running_of(course.status) == (ConditionStatus.TRUE, "Training", "")


def test_the_message_goes_back_when_the_notice_is_over() -> None:
    course = Course()
    course.report(STORE)

    course.report(at=11)

    assert course.status.message == TRAINS
    assert running_of(course.status)[2] == ""


def test_a_message_of_several_lines_is_shown_as_one() -> None:
    course = Course()

    (event,) = course.report((STORE, "  The store\n does\tnot answer. "))

    assert course.status.message == event.message == "The store does not answer."


def test_of_two_notices_of_one_reason_the_first_counts() -> None:
    course = Course()

    (event,) = course.report((STORE, "First."), (STORE, "Second."))

    assert course.status.message == event.message == "First."


def test_a_notice_without_a_word_is_told_and_hides_nothing() -> None:
    course = Course()

    (event,) = course.report((STORE, ""))

    assert (event.reason, course.status.message) == (STORE, TRAINS)


def test_why_an_evicted_pod_ends_is_said_before_any_notice() -> None:
    course = Course(queueName="team")
    course.report(STORE)
    suspended = replace(course.train, suspended=True, queue="team")

    course.see(None, suspended, make_running_pod(course.train, deletion_deadline=in_seconds(30)))

    assert course.status.message == "Job bot-train-1 was suspended; its pods save and end."


def test_evicted_pods_are_gone_with_what_they_warned_of() -> None:
    course = Course(queueName="team")
    course.report(STORE)
    gone = replace(course.train, suspended=True, queue="team", created=seconds_ago(1))

    course.see(report_of(course.train, STORE), gone, at=2)
    queued = running_of(course.status)
    course.see(report_of(course.train, STORE), make_pod(course.train, age_seconds=1), at=3)

    assert queued == (ConditionStatus.FALSE, "Queued", "")
    assert running_of(course.status) == (ConditionStatus.FALSE, "Queued", "")
    assert course.status.message == "Job bot-train-1 waits for its pod to start."


def test_a_prepare_pod_warns_of_nothing() -> None:
    prepare = make_child(Stage.PREPARE)
    job, pod = make_job(), make_running_pod(prepare)
    job, report = job.with_status(status_after(job, prepare, pod)), report_of(prepare, STORE)

    running = status_after(job, prepare, pod, report)
    ended = status_after(job, prepare, make_ended_pod(prepare, 20), report)

    assert running.message == job.status.message
    assert decide_events(job.status, running, report) == ()
    told = [event.reason for event in decide_events(job.status, ended, report) if event.type == "Warning"]
    assert told == ["StorageUnavailable"]


def test_a_status_with_notices_survives_its_way_through_the_api() -> None:
    course = Course()
    course.report(STORE, RARER)

    read = FineTuneJobStatus.model_validate(course.status.model_dump(mode="json", exclude_none=True))

    assert read == course.status


# --- told ---------------------------------------------------------------------------------------------------------

Told = tuple[NoticeReason | tuple[NoticeReason, str], ...]
TRANSITIONS: dict[str, tuple[Told, Told, list[str]]] = {
    "a first one": ((), (STORE,), [STORE]),
    "two at once": ((), (STORE, RARER), [STORE, RARER]),
    "one that holds on": ((STORE,), (STORE,), []),
    "one that joins": ((STORE,), (STORE, RARER), [RARER]),
    "one that joins and is more important": ((STORE,), (RARER, STORE), [RARER]),
    "one that takes another's place": ((STORE,), (RARER,), [RARER]),
    "one that is over": ((STORE,), (), []),
    "one of two that is over": ((STORE, RARER), (RARER,), []),
    "the same in other words": ((STORE,), ((STORE, "For 90 s."),), []),
    "the same reason twice": ((), ((STORE, "First."), (STORE, "Second.")), [STORE]),
}


@pytest.mark.parametrize(("before", "after", "told"), TRANSITIONS.values(), ids=TRANSITIONS.keys())
def test_each_reason_is_told_when_it_begins(before: Told, after: Told, told: list[str]) -> None:
    course = Course()
    course.report(*before)

    events = course.report(*after, at=11)

    assert [(event.type, event.reason) for event in events] == [("Warning", reason) for reason in told]


def test_the_event_says_what_the_notice_says() -> None:
    (event,) = Course().report((STORE, "The store does not answer since 12:00."))

    assert event.message == "The store does not answer since 12:00."


def test_one_that_comes_back_is_told_again_as_another_event() -> None:
    course = Course()
    first = course.report(STORE, at=0)
    course.report(at=11)
    course.report(at=22)
    second = course.report(STORE, at=23)

    assert [event.reason for event in (*first, *second)] == [STORE, STORE]
    assert names_of(first) != names_of(second)


def test_a_write_that_is_tried_again_tells_the_same_event() -> None:
    """The status was not written, but the event was; meanwhile a newer report came."""
    course = Course()
    course.report()
    before = course.job
    first = course.report(STORE, at=1)
    course.job = before

    assert names_of(course.report(STORE, at=3)) == names_of(first)


def test_the_next_attempt_tells_its_own() -> None:
    course = Course()
    first = course.report(STORE)
    course.see(None, make_ended_pod(course.train, 20, ended_seconds_ago=0))
    assert running_of(course.status)[2] == ""
    second = make_child(Stage.TRAIN, 2, age_seconds=-10)
    pod = replace(make_running_pod(second), started=in_seconds(12))

    course.see(None, second, pod, at=13)
    assert course.status.message == "Job bot-train-2 trains."
    events = course.see(report_of(second, STORE, at=15), second, pod, at=15)

    assert [event.reason for event in events] == [STORE]
    assert names_of(events) != names_of(first)


def test_while_it_is_being_stopped_an_attempt_still_warns() -> None:
    course = Course()
    course.job = make_job(suspend=True, generation=2).with_status(course.status)

    events = course.report(GRACE)
    again = course.report(GRACE, at=11)

    assert [event.reason for event in events] == [GRACE]
    assert again == ()
    assert course.status.message == "spec.suspend is true. The pods of Job bot-train-1 were told to end."


@pytest.mark.parametrize("exit_code", [0, 20], ids=["it succeeded", "it failed"])
def test_the_last_word_of_an_attempt_is_told_although_it_is_seen_with_its_end(exit_code: int) -> None:
    course = Course()
    end = make_ended_pod(course.train, exit_code, message=TRAINED_MESSAGE, ended_seconds_ago=0)
    report, export = report_of(course.train, STORE), make_child(Stage.EXPORT, age_seconds=0)
    following = [export] if exit_code == 0 else []

    events = course.see(report, course.train, end, *following)
    again = course.see(report, course.train, end, *following, at=1)

    assert [event.reason for event in events if event.reason in set(NoticeReason)] == [STORE]
    assert [event for event in again if event.reason in set(NoticeReason)] == []


def test_a_report_of_pods_that_a_queue_took_away_says_nothing_of_those_that_run_now() -> None:
    course = Course(queueName="team")
    old = report_of(course.train, STORE, at=-20)
    younger = replace(make_running_pod(course.train, uid="second", name="second"), started=seconds_ago(5))

    assert course.see(old, younger, at=1) != ()  # It tells of the eviction, and of nothing else.
    assert course.status.message == TRAINS
    assert running_of(course.status)[2] == ""


# --- an operator that was restarted -------------------------------------------------------------------------------


def test_a_restarted_operator_leaves_the_notice_until_the_next_report() -> None:
    course = Course()
    course.report(STORE, RARER)
    written = course.status

    events = course.see(None, make_running_pod(course.train), at=60)

    assert course.status == written
    assert events == ()


def test_a_restarted_operator_tells_no_notice_again() -> None:
    course = Course()
    course.report(STORE, RARER)
    course.job = course.job.with_status(
        FineTuneJobStatus.model_validate(course.status.model_dump(mode="json", exclude_none=True))
    )
    course.see(None, make_running_pod(course.train), at=60)

    assert course.report(STORE, RARER, at=61) == ()
    assert [event.reason for event in course.report(STORE, RARER, GRACE, at=72)] == [GRACE]


# --- how often it is written --------------------------------------------------------------------------------------

WRITES: dict[str, tuple[Told, Told, bool]] = {
    "a new notice is written at once": ((STORE,), (STORE, RARER), True),
    "a first notice is written at once": ((), (STORE,), True),
    "other words wait": ((STORE,), ((STORE, "For 90 s."),), False),
    "another order waits": ((STORE, RARER), (RARER, STORE), False),
    "the end of a notice waits": ((STORE,), (), False),
    "mere figures wait": ((STORE,), (STORE,), False),
}


def plan_next(job: FineTuneJob, train: JobFacts, told: Told, at: float) -> tuple[bool, bool, float | None]:
    """Whether a report is written now, whether as mere figures, and when it is looked at again."""
    facts = observe(train, make_running_pod(train), report_of(train, *told, at=at))
    plan = plan_for(job, facts, in_seconds(at))
    return plan.status != job.status, plan.is_progress_only, plan.requeue_seconds


@pytest.mark.parametrize(("before", "after", "at_once"), WRITES.values(), ids=WRITES.keys())
def test_a_new_notice_is_a_transition_and_its_end_and_wording_are_figures(
    before: Told, after: Told, at_once: bool
) -> None:
    course = Course()
    course.report(*before)

    soon = plan_next(course.job, course.train, after, at=4)
    later = plan_next(course.job, course.train, after, at=11)

    assert soon == ((True, False, None) if at_once else (False, False, 7))
    assert later[:2] == (True, not at_once)


def test_a_notice_that_flickers_is_written_and_told_once_in_an_interval() -> None:
    course = Course()
    course.report()
    written, events = 0, list[JobEvent]()
    for second in range(11, 21):
        before = course.status
        events += course.report(*[STORE] * (second % 2), at=second)
        written += course.status != before

    assert (written, [event.reason for event in events]) == (1, [STORE])


def test_with_another_transition_the_end_of_a_notice_goes_along() -> None:
    course = Course()
    course.report(STORE)
    failed = make_ended_pod(course.train, 20, ended_seconds_ago=0)

    course.see(report_of(course.train), replace(course.train, state=JobState.FAILED), failed, at=2)

    assert course.status.phase is Phase.RESTARTING
    assert running_of(course.status) == (ConditionStatus.FALSE, "Restarting", "")
