"""What people are told of a run that goes on all the same."""

from __future__ import annotations

import pytest

from finetune_api.progress import MAX_NOTICE_LENGTH
from finetune_api.spec import Checkpoints
from finetune_trainer.notices import SavingState, decide_notices

EVERY_FOUR = Checkpoints(every_steps=4)
EVERY_TEN_MINUTES = Checkpoints(every_minutes=10)
FIXED_GRACE = Checkpoints(every_steps=4, grace_period_seconds=60)
AWAY = "http://store does not answer."


@pytest.mark.parametrize(
    ("state", "settings", "reasons", "words"),
    [
        pytest.param(SavingState(), EVERY_FOUR, [], [], id="nothing is known yet"),
        pytest.param(
            SavingState(committed_step=8, stop_seconds=20, grace_seconds=120),
            EVERY_FOUR,
            [],
            [],
            id="all is well",
        ),
        pytest.param(
            SavingState(outage_seconds=14.9, outage_message=AWAY), EVERY_FOUR, [], [], id="a short hiccup"
        ),
        pytest.param(
            SavingState(outage_seconds=15.0, outage_message=AWAY),
            EVERY_FOUR,
            ["StoreUnavailable"],
            ["no checkpoint for 15 s", "no step is saved yet", AWAY],
            id="an outage before the first checkpoint",
        ),
        pytest.param(
            SavingState(committed_step=8, outage_seconds=90.4, outage_message=AWAY),
            EVERY_FOUR,
            ["StoreUnavailable"],
            ["no checkpoint for 90 s", "the newest saved step is 8"],
            id="an outage after one",
        ),
        pytest.param(
            SavingState(committed_step=8, postponed_since=12),
            EVERY_FOUR,
            ["SavesAreRarer"],
            ["than the 4 steps between two", "due at step 12", "Raise checkpoints.everySteps"],
            id="saves are slower than the steps between them",
        ),
        pytest.param(
            SavingState(committed_step=8, postponed_since=12),
            EVERY_TEN_MINUTES,
            ["SavesAreRarer"],
            ["than the 10 minutes between two", "Raise checkpoints.everyMinutes"],
            id="saves are slower than the minutes between them",
        ),
        pytest.param(
            SavingState(postponed_since=12, outage_seconds=3.0),
            EVERY_FOUR,
            [],
            [],
            id="a save waits because the store is away for a moment",
        ),
        pytest.param(
            SavingState(postponed_since=12, outage_seconds=30.0),
            EVERY_FOUR,
            ["StoreUnavailable"],
            [],
            id="a save waits because the store is away: said once",
        ),
        pytest.param(
            SavingState(stop_seconds=115.0, grace_seconds=120),
            EVERY_FOUR,
            [],
            [],
            id="the grace is just enough",
        ),
        pytest.param(
            SavingState(stop_seconds=115.1, grace_seconds=120),
            EVERY_FOUR,
            ["GracePeriodTooShort"],
            ["needs 120 s to save, and has 120 s", "The next attempt gets more"],
            id="the grace is too short, and Auto",
        ),
        pytest.param(
            SavingState(stop_seconds=65.0, grace_seconds=60),
            FIXED_GRACE,
            ["GracePeriodTooShort"],
            ["needs 70 s", "Set checkpoints.gracePeriodSeconds to Auto, or to 140"],
            id="the grace is too short, and a number",
        ),
        pytest.param(
            SavingState(stop_seconds=1000.0), EVERY_FOUR, [], [], id="a pod that was not told its grace"
        ),
        pytest.param(
            SavingState(grace_seconds=1.0), EVERY_FOUR, [], [], id="a stop that was not measured yet"
        ),
        pytest.param(
            SavingState(passed_over=("step 12: state.json is missing", "step 8 has no manifest")),
            EVERY_FOUR,
            ["CheckpointPassedOver"],
            ["step 12: state.json is missing; step 8 has no manifest."],
            id="newer checkpoints were passed over",
        ),
        pytest.param(
            SavingState(
                postponed_since=4,
                outage_seconds=20,
                stop_seconds=500,
                grace_seconds=30,
                passed_over=("step 12 has no manifest",),
            ),
            EVERY_FOUR,
            ["StoreUnavailable", "GracePeriodTooShort", "CheckpointPassedOver"],
            [],
            id="several at once, the most pressing first",
        ),
    ],
)
def test_notices(state: SavingState, settings: Checkpoints, reasons: list[str], words: list[str]) -> None:
    notices = decide_notices(state, settings)
    assert [notice.reason for notice in notices] == reasons
    said = " ".join(notice.message for notice in notices)
    assert [word for word in words if word not in said] == []


def test_a_long_story_is_cut_and_still_says_what_to_look_at() -> None:
    state = SavingState(committed_step=8, outage_seconds=60, outage_message="It answers nonsense. " * 100)
    (notice,) = decide_notices(state, EVERY_FOUR)
    assert len(notice.message) <= MAX_NOTICE_LENGTH
    assert notice.message.startswith("The store has taken no checkpoint for 60 s")
