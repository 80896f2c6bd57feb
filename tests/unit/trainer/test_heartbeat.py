"""When a run counts as hung, and which rank is blamed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from finetune_trainer.errors import Stalled
from finetune_trainer.heartbeat import LEAST_PHASE_SECONDS, Heart, Phase, Watchdog

TIMEOUT = 60.0


class Bench:
    """Two ranks, a watchdog, and a clock that only tests move."""

    def __init__(self, folder: Path, timeout: float = TIMEOUT) -> None:
        self.now = 1000.0
        files = {rank: folder / f"heartbeat-{rank}.json" for rank in range(2)}
        self.hearts = {rank: Heart(path) for rank, path in files.items()}
        self.watchdog = Watchdog(files, timeout, clock=lambda: self.now)

    def look_after(self, seconds: float, states: Mapping[int, str] | None = None) -> None:
        self.now += seconds
        self.watchdog.check(lambda: states or {})

    def finish_step(self, step: int, *ranks: int) -> None:
        for rank in ranks or self.hearts:
            self.hearts[rank].finish_step(step)

    def enter(self, phase: Phase) -> None:
        for heart in self.hearts.values():
            heart.enter(phase)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_steps_that_come_in_time_are_no_stall(bench: Bench) -> None:
    for step in range(1, 5):
        bench.finish_step(step)
        bench.look_after(TIMEOUT - 1)


def test_no_step_for_too_long_is_a_stall(bench: Bench) -> None:
    bench.finish_step(3)
    bench.look_after(1)
    bench.look_after(TIMEOUT)
    with pytest.raises(Stalled, match=r"no progress for 60 s after step 3, while training\. ") as stall:
        bench.look_after(1)
    assert (stall.value.step, stall.value.rank) == (3, None)
    assert "spec.failurePolicy.stallTimeoutSeconds" in stall.value.message


@pytest.mark.parametrize("phase", [Phase.SAVING, Phase.COMMITTING, Phase.LOADING])
def test_whatever_is_no_step_gets_half_an_hour_from_its_own_beginning(bench: Bench, phase: Phase) -> None:
    bench.finish_step(3)
    bench.look_after(TIMEOUT - 1)
    bench.enter(phase)
    bench.look_after(1)
    bench.look_after(LEAST_PHASE_SECONDS)
    with pytest.raises(Stalled, match=f"for 1800 s after step 3, while {phase}"):
        bench.look_after(1)


def test_a_rank_that_never_says_anything_stalls_while_loading(bench: Bench) -> None:
    bench.look_after(LEAST_PHASE_SECONDS)
    with pytest.raises(Stalled, match="after step 0, while loading"):
        bench.look_after(1)


def test_the_first_step_of_an_attempt_counts_as_loading(bench: Bench) -> None:
    bench.enter(Phase.LOADING)
    bench.look_after(1)
    bench.look_after(LEAST_PHASE_SECONDS)


def test_a_longer_timeout_holds_for_everything(tmp_path: Path) -> None:
    bench = Bench(tmp_path, timeout=2 * LEAST_PHASE_SECONDS)
    bench.enter(Phase.SAVING)
    bench.look_after(1)
    bench.look_after(2 * LEAST_PHASE_SECONDS)


@pytest.mark.parametrize(
    ("steps", "states", "blamed", "said"),
    [
        pytest.param({0: 4, 1: 4}, {1: "stopped by a signal"}, 1, "rank 1 is stopped", id="one does not run"),
        pytest.param({0: 5, 1: 4}, {}, 1, "after step 4", id="one is behind"),
        pytest.param({0: 4, 1: 4}, {}, None, "after step 4", id="nobody knows"),
    ],
)
def test_who_holds_up_the_others_is_blamed(
    bench: Bench, steps: dict[int, int], states: dict[int, str], blamed: int | None, said: str
) -> None:
    for rank, step in steps.items():
        bench.finish_step(step, rank)
    bench.look_after(1)
    with pytest.raises(Stalled, match=said) as stall:
        bench.look_after(TIMEOUT + 1, states)
    assert stall.value.rank == blamed


def test_a_file_that_cannot_be_read_is_no_sign_of_life(bench: Bench, tmp_path: Path) -> None:
    bench.finish_step(3)
    bench.look_after(1)
    (tmp_path / "heartbeat-0.json").write_text("{")
    with pytest.raises(Stalled):
        bench.look_after(TIMEOUT + 1)
