"""What a trainer warns of while it trains: out of its newest report, and out of a status that tells of it already.

The message shows the first notice, the Running condition names the reasons of all. By them an operator that was
restarted neither tells them again, nor takes them back before the next report comes.
"""

from __future__ import annotations

from dataclasses import dataclass

from finetune_api.names import Stage
from finetune_api.progress import Notice, NoticeReason
from finetune_api.status import Attempt, AttemptOutcome, ConditionType, FineTuneJobStatus
from finetune_operator.conditions import find_condition
from finetune_operator.observation import ReceivedReport
from finetune_operator.times import parse_time

_OPENING, _SEPARATOR, _END = "The trainer warns of ", ", ", "."


@dataclass(frozen=True)
class Noticed:
    """What the trainer warns of now: the reasons, the most important first, and what the first one says."""

    reasons: tuple[NoticeReason, ...] = ()
    message: str = ""


def observe_notices(status: FineTuneJobStatus, attempt: Attempt, report: ReceivedReport | None) -> Noticed:
    """What the newest report of a running attempt says; without one, what status says of the same attempt."""
    if report is not None and _is_of_pods(attempt, report):
        notices = list_reported(report)
        return Noticed(tuple(each.reason for each in notices), notices[0].message if notices else "")
    known = _find_attempt(status, attempt.job_uid)
    reasons = list_noticed(status) if known is not None else ()
    return Noticed(reasons, status.message or "") if reasons else Noticed()


def list_reported(report: ReceivedReport) -> tuple[Notice, ...]:
    """The notices of a report, one of each reason, each on one line."""
    training = report.report.finetune
    by_reason: dict[NoticeReason, Notice] = {}
    for notice in training.notices if training else ():
        by_reason.setdefault(notice.reason, notice)
    return tuple(
        each.model_copy(update={"message": " ".join(each.message.split())}) for each in by_reason.values()
    )


def list_begun(old: FineTuneJobStatus, new: FineTuneJobStatus, report: ReceivedReport) -> tuple[Notice, ...]:
    """The notices of the report that went into the new status and of which the old one does not tell."""
    before, after = (_find_attempt(status, report.job_uid) for status in (old, new))
    if after is None or after.stage is not Stage.TRAIN or not _is_of_pods(after, report):
        return ()
    if before is not None and before.outcome is not AttemptOutcome.RUNNING:
        return ()
    told = list_noticed(old) if before is not None else ()
    # The last word of an attempt that ended meanwhile counts too, although it is no longer shown.
    has_ended = after.outcome is not AttemptOutcome.RUNNING
    shown = list_noticed(new)
    return tuple(
        notice
        for notice in list_reported(report)
        if notice.reason not in told and (has_ended or notice.reason in shown)
    )


def say_reasons(noticed: Noticed) -> str:
    """For the Running condition; `list_noticed` reads it."""
    return f"{_OPENING}{_SEPARATOR.join(noticed.reasons)}{_END}" if noticed.reasons else ""


def list_noticed(status: FineTuneJobStatus) -> tuple[NoticeReason, ...]:
    """The reasons that status names, in their order."""
    running = find_condition(status.conditions, ConditionType.RUNNING)
    told = running.message if running is not None else ""
    words = told.removeprefix(_OPENING).removesuffix(_END).split(_SEPARATOR)
    return tuple(NoticeReason(word) for word in words if word in set(NoticeReason))


def _is_of_pods(attempt: Attempt, report: ReceivedReport) -> bool:
    """Whether the pods that run now sent it. A queue may have started them anew since."""
    since = attempt.running_since
    return report.job_uid == attempt.job_uid and (since is None or report.received >= parse_time(since))


def _find_attempt(status: FineTuneJobStatus, job_uid: str) -> Attempt | None:
    return next((attempt for attempt in status.attempts if attempt.job_uid == job_uid), None)
