"""`status.conditions`: set by type, with a transition time that moves only when the status does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from finetune_api.status import Condition, ConditionStatus, ConditionType
from finetune_api.wording import cut
from finetune_operator.times import format_time

# A condition is one line for people; only Failed lists all that was found, within metav1.Condition's bound.
MAX_MESSAGE_LENGTH = 1024
MAX_FAILED_MESSAGE_LENGTH = 32_768


@dataclass(frozen=True)
class Verdict:
    """What is to be said about one condition type."""

    type: ConditionType
    status: ConditionStatus
    reason: str
    message: str = ""


def find_condition(conditions: Iterable[Condition], kind: ConditionType) -> Condition | None:
    """The condition of this type."""
    return next((condition for condition in conditions if condition.type == kind), None)


def is_true(conditions: Iterable[Condition], kind: ConditionType) -> bool:
    """Whether the condition of this type stands and is True."""
    condition = find_condition(conditions, kind)
    return condition is not None and condition.status is ConditionStatus.TRUE


def set_conditions(
    current: Sequence[Condition], verdicts: Iterable[Verdict], *, generation: int, now: datetime
) -> list[Condition]:
    """Apply the verdicts, in their order; conditions of other types stay behind them."""
    updated = [_set_condition(current, verdict, generation, now) for verdict in verdicts]
    told = {condition.type for condition in updated}
    return [*updated, *(condition for condition in current if condition.type not in told)]


def update_conditions(
    current: Sequence[Condition], verdicts: Iterable[Verdict], *, generation: int, now: datetime
) -> list[Condition]:
    """Apply the verdicts about conditions that stand already, in their places."""
    by_type: dict[str, Verdict] = {verdict.type.value: verdict for verdict in verdicts}
    return [
        _set_condition(current, by_type[condition.type], generation, now)
        if condition.type in by_type
        else condition
        for condition in current
    ]


def _set_condition(
    current: Sequence[Condition], verdict: Verdict, generation: int, now: datetime
) -> Condition:
    known = find_condition(current, verdict.type)
    unchanged = known is not None and known.status is verdict.status
    is_failure = verdict.type is ConditionType.FAILED
    return Condition(
        type=verdict.type,
        status=verdict.status,
        reason=verdict.reason,
        message=cut(verdict.message, MAX_FAILED_MESSAGE_LENGTH if is_failure else MAX_MESSAGE_LENGTH),
        last_transition_time=known.last_transition_time if known and unchanged else format_time(now),
        observed_generation=generation,
    )
