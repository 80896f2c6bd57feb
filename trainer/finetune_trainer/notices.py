"""What people should know of a run that goes on all the same: decided from what the uploader says. Pure, torch-free."""

from __future__ import annotations

import math
from dataclasses import dataclass

from finetune_api.progress import MAX_NOTICE_LENGTH, Notice, NoticeReason
from finetune_api.spec import Checkpoints
from finetune_api.wording import cut
from finetune_trainer.grace import LAST_WORDS_SECONDS, seconds_to_save_within

# A store that hiccups is nobody's business.
_SHORTEST_OUTAGE_SECONDS = 15.0


@dataclass(frozen=True)
class SavingState:
    """What is known of saving after a step."""

    committed_step: int | None = None
    # The step of a checkpoint that waits for the one before.
    postponed_since: int | None = None
    # How long the store has not answered, and what it was that failed.
    outage_seconds: float | None = None
    outage_message: str = ""
    stop_seconds: float | None = None
    grace_seconds: float | None = None
    # Why newer checkpoints than the one gone on from were not taken.
    passed_over: tuple[str, ...] = ()


def decide_notices(state: SavingState, settings: Checkpoints) -> tuple[Notice, ...]:
    """Say what is not as it should be, the most pressing first."""
    found = (
        _store_unavailable(state),
        _saves_are_rarer(state, settings),
        _grace_too_short(state, settings),
        _passed_over(state),
    )
    return tuple(notice for notice in found if notice is not None)


def _store_unavailable(state: SavingState) -> Notice | None:
    if state.outage_seconds is None or state.outage_seconds < _SHORTEST_OUTAGE_SECONDS:
        return None
    return _notice(
        NoticeReason.STORE_UNAVAILABLE,
        f"The store has taken no checkpoint for {state.outage_seconds:.0f} s; training goes on, "
        f"{_newest(state)}. {state.outage_message}",
    )


def _saves_are_rarer(state: SavingState, settings: Checkpoints) -> Notice | None:
    if state.postponed_since is None or state.outage_seconds is not None:
        return None
    is_by_steps = settings.every_minutes is None
    interval = f"{settings.every_steps} steps" if is_by_steps else f"{settings.every_minutes} minutes"
    field = "everySteps" if is_by_steps else "everyMinutes"
    return _notice(
        NoticeReason.SAVES_ARE_RARER,
        f"A checkpoint takes longer to upload than the {interval} between two: the one due at step "
        f"{state.postponed_since} waits, {_newest(state)}. Raise checkpoints.{field}, or use a faster store.",
    )


def _grace_too_short(state: SavingState, settings: Checkpoints) -> Notice | None:
    if state.stop_seconds is None or state.grace_seconds is None:
        return None
    if state.stop_seconds <= seconds_to_save_within(state.grace_seconds):
        return None
    needed = state.stop_seconds + LAST_WORDS_SECONDS
    is_auto = settings.grace_period_seconds is None
    remedy = (
        "The next attempt gets more"
        if is_auto
        else f"Set checkpoints.gracePeriodSeconds to Auto, or to {math.ceil(2 * needed)}"
    )
    return _notice(
        NoticeReason.GRACE_PERIOD_TOO_SHORT,
        f"A pod that is told to go needs {needed:.0f} s to save, and has {state.grace_seconds:.0f} s: the steps since "
        f"the last checkpoint would be lost. {remedy}.",
    )


def _passed_over(state: SavingState) -> Notice | None:
    if not state.passed_over:
        return None
    return _notice(
        NoticeReason.CHECKPOINT_PASSED_OVER,
        f"Newer checkpoints than the one that training goes on from cannot be used: {'; '.join(state.passed_over)}.",
    )


def _newest(state: SavingState) -> str:
    if state.committed_step is None:
        return "and no step is saved yet"
    return f"and the newest saved step is {state.committed_step}"


def _notice(reason: NoticeReason, message: str) -> Notice:
    return Notice(reason=reason, message=cut(message, MAX_NOTICE_LENGTH))
