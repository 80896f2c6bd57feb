"""The budget of writes: never more than allowed, first come first served, and fair."""

from __future__ import annotations

import heapq
import random
from collections import Counter

import pytest

from finetune_operator.progress_budget import FORGOTTEN_AFTER_SECONDS, ProgressBudget


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def most_within_a_second(times: list[float]) -> int:
    """The largest number of writes in any half-open window of a second that begins with one."""
    most, first = 0, 0
    for last, time in enumerate(times):
        while times[first] + 1 <= time:
            first += 1
        most = max(most, last - first + 1)
    return most


def simulate(
    budget: ProgressBudget,
    clock: Clock,
    jobs: int,
    seconds: float,
    *,
    interval: float = 10.0,
    lateness: float = 0.0,
    seed: int = 0,
) -> list[tuple[float, int]]:
    """Jobs that report every second and ask as the controller does: when `interval` has passed since their last
    write, and again when they were told to. Returns every write: when, and whose."""
    dice, end = random.Random(seed), clock.now + seconds
    due = [(clock.now + dice.random(), job) for job in range(jobs)]
    heapq.heapify(due)
    writes = []
    while due[0][0] < end:
        clock.now, job = heapq.heappop(due)
        wait_seconds = budget.reserve(job)
        if wait_seconds == 0:
            writes.append((clock.now, job))
            wait_seconds = interval + dice.random()  # The next report after the interval.
        heapq.heappush(due, (clock.now + wait_seconds + dice.random() * lateness, job))
    return writes


def test_a_lone_job_writes_at_once(clock: Clock) -> None:
    budget = ProgressBudget(20, monotonic=clock)

    assert budget.reserve("a") == 0.0


def test_after_a_quiet_while_some_write_at_once_and_the_others_are_told_when(clock: Clock) -> None:
    budget = ProgressBudget(per_second=10, burst=3, monotonic=clock)

    waits = [budget.reserve(job) for job in "abcde"]

    assert waits == pytest.approx([0, 0, 0, 0.1, 0.2])


def test_a_job_that_comes_back_when_it_was_told_gets_its_slot(clock: Clock) -> None:
    budget = ProgressBudget(per_second=10, burst=1, monotonic=clock)
    assert budget.reserve("the first") == 0.0
    waits = {job: budget.reserve(job) for job in range(50)}
    came = clock.now

    for job, wait_seconds in waits.items():
        clock.now = came + wait_seconds
        assert budget.reserve(job) == 0.0


def test_asking_early_costs_nothing_and_gains_nothing(clock: Clock) -> None:
    budget = ProgressBudget(per_second=1, burst=1, monotonic=clock)
    budget.reserve("a")
    assert budget.reserve("b") == pytest.approx(1)
    assert budget.reserve("c") == pytest.approx(2)

    clock.now += 0.5
    assert budget.reserve("b") == pytest.approx(0.5)
    assert budget.reserve("c") == pytest.approx(1.5)


def test_no_job_takes_a_second_slot_while_another_waits(clock: Clock) -> None:
    budget = ProgressBudget(per_second=1, burst=1, monotonic=clock)
    assert budget.reserve("greedy") == 0.0
    assert budget.reserve("patient") == pytest.approx(1)

    assert budget.reserve("greedy") == pytest.approx(2)
    clock.now += 1
    assert budget.reserve("greedy") == pytest.approx(1)
    assert budget.reserve("patient") == 0.0


def test_who_does_not_come_holds_nobody_up(clock: Clock) -> None:
    budget = ProgressBudget(per_second=1, burst=1, monotonic=clock)
    for job in ("first", "absent", "third"):
        budget.reserve(job)

    clock.now += 2
    assert budget.reserve("third") == 0.0


def test_a_forgotten_job_begins_anew(clock: Clock) -> None:
    budget = ProgressBudget(per_second=1, burst=1, monotonic=clock)
    budget.reserve("a")
    budget.reserve("b")
    budget.forget("b")
    budget.forget("never seen")

    clock.now += 1
    assert len(budget) == 0
    assert budget.reserve("c") == pytest.approx(1)


def test_who_never_comes_back_is_forgotten(clock: Clock) -> None:
    budget = ProgressBudget(per_second=100, burst=1, monotonic=clock)
    for job in range(5_000):
        budget.reserve(job)
    assert len(budget) == 4_999

    clock.now += 50 + FORGOTTEN_AFTER_SECONDS
    budget.reserve("somebody else")
    assert len(budget) == 0


@pytest.mark.parametrize(
    ("per_second", "burst"),
    [pytest.param(0, 1, id="no rate"), pytest.param(1, 0, id="no burst")],
)
def test_a_budget_that_allows_nothing_is_refused(per_second: float, burst: int) -> None:
    with pytest.raises(ValueError, match="at least one write"):
        ProgressBudget(per_second, burst)


@pytest.mark.parametrize("lateness", [0.0, 0.02, 0.5], ids=["on time", "20 ms late", "half a second late"])
def test_a_thousand_jobs_share_twenty_writes_a_second(clock: Clock, lateness: float) -> None:
    budget = ProgressBudget(20, monotonic=clock)

    writes = simulate(budget, clock, 1_000, 600, lateness=lateness)

    assert most_within_a_second([time for time, _ in writes]) <= 20
    assert len(writes) >= 0.95 * 20 * 600
    shares = Counter(job for _, job in writes)
    fair = len(writes) / 1_000
    assert len(shares) == 1_000
    # Writes come in whole numbers: 12 ± 10 % is 11 to 13.
    assert min(shares.values()) >= int(0.9 * fair)
    assert max(shares.values()) <= -int(-1.1 * fair // 1)


def test_below_the_limit_nobody_waits_noticeably(clock: Clock) -> None:
    """100 jobs ask for 10 writes a second, half of what is allowed."""
    writes = simulate(ProgressBudget(20, monotonic=clock), clock, 100, 600)

    shares = Counter(job for _, job in writes)
    assert min(shares.values()) >= 600 // 11 - 1


@pytest.mark.parametrize("seed", range(20))
def test_however_late_jobs_come_the_limit_holds(seed: int) -> None:
    """Random rates, bursts and pauses of the process."""
    dice, clock = random.Random(seed), Clock()
    per_second, burst = dice.choice([1, 5, 20]), dice.choice([1, 5, 20])
    budget = ProgressBudget(per_second, burst, clock)
    writes, came_back = [], dict.fromkeys(range(50), 0.0)
    for _ in range(5_000):
        clock.now += dice.choice([0, 0, 0.001, 0.05, 3]) * dice.random()
        job = dice.choice([job for job, due in came_back.items() if due <= clock.now] or [0])
        wait_seconds = budget.reserve(job)
        came_back[job] = clock.now + wait_seconds
        if wait_seconds == 0:
            writes.append(clock.now)

    assert most_within_a_second(writes) <= max(per_second, burst)
    assert len(writes) <= burst + per_second * (clock.now - 1000.0)
