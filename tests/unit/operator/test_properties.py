"""Properties of the whole decision, over random courses: idempotent, never two attempts at once, always an end."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.status import AttemptOutcome, ConditionType, FineTuneJobStatus, Phase
from finetune_operator.conditions import find_condition, is_true
from finetune_operator.status import is_finished
from tests.unit.operator.simulation import World

SEEDS = range(60)
SHAPES: list[tuple[str, dict[str, Any]]] = [
    ("one pod", {}),
    ("a gang of three", {"parallelism__nodes": 3}),
    ("in a queue", {"queueName": "team"}),
    ("a gang in a queue", {"parallelism__nodes": 2, "queueName": "team"}),
    ("with deadlines", {"failurePolicy": {"activeDeadlineSeconds": 300, "pendingDeadlineSeconds": 60}}),
    ("whose folder goes with it", {"deletionPolicy": "Delete"}),
]
shapes = pytest.mark.parametrize("shape", [pytest.param(shape, id=name) for name, shape in SHAPES])


def run_with_faults(world: World, rounds: int = 40) -> None:
    """Faults, users and crashes, with the invariants checked after every pass of the operator."""
    for _ in range(rounds):
        disturb(world)
        world.tick(world.random.choice([0.5, 2, 10, 40]), faults=True)
        crash_after = world.random.choice([None, None, None, 1, 2])
        if world.run_operator(crash_after=crash_after) is not None:
            check(world)


def disturb(world: World) -> None:
    """What people do, in one of ten rounds."""
    chance = world.random.random()
    if chance < 0.03:
        world.edit(suspend=not world.changes.get("suspend", False))
    elif chance < 0.06:
        world.edit(retry=world.changes.get("retry", 0) + 1)
    elif chance < 0.08 and world.job.status.phase in (
        Phase.PENDING,
        Phase.QUEUED,
        Phase.SUSPENDED,
        Phase.FAILED,
    ):
        world.edit(resources__memory=f"{world.random.randint(8, 64)}Gi")
    elif chance < 0.1 and world.jobs:
        world.delete_job(world.random.choice(sorted(world.jobs)))
    elif chance < 0.12:
        world.refuses = not world.refuses


def check(world: World) -> None:
    """What holds whenever the operator has had its say."""
    status = world.job.status
    check_conditions(status)
    assert len(world.live_attempts()) <= 1, world.history
    assert world.job.spec is not None
    assert status.restarts <= world.job.spec.failure_policy.max_restarts
    running = [attempt for attempt in status.attempts if attempt.outcome is AttemptOutcome.RUNNING]
    assert len(running) <= 1
    assert running == [] or running[0] is status.attempts[-1]
    assert len(status.attempts) <= 10


def check_conditions(status: FineTuneJobStatus) -> None:
    """Phase and conditions never contradict each other."""
    if not status.conditions:
        return

    def stands(kind: ConditionType) -> bool:
        return is_true(status.conditions, kind)

    assert stands(ConditionType.SUCCEEDED) is (status.phase is Phase.SUCCEEDED)
    assert stands(ConditionType.FAILED) is (status.phase is Phase.FAILED)
    assert stands(ConditionType.FINISHED) is (status.phase in (Phase.SUCCEEDED, Phase.FAILED))
    assert stands(ConditionType.SUSPENDED) is (status.phase is Phase.SUSPENDED)
    assert stands(ConditionType.RUNNING) is (status.phase is Phase.TRAINING)
    assert (status.completion_time is not None) is stands(ConditionType.FINISHED)
    for kind in ConditionType:
        assert find_condition(status.conditions, kind) is not None, kind


@shapes
def test_whatever_happens_the_invariants_hold_and_the_job_ends_once_faults_stop(
    shape: dict[str, Any],
) -> None:
    for seed in SEEDS:
        world = World(seed, **shape)
        run_with_faults(world)
        world.edit(suspend=False)
        world.refuses = False
        for _ in range(120):
            world.tick(30, faults=False)
            world.run_operator()
            check(world)
            if is_finished(world.job.status):
                break
        assert is_finished(world.job.status), (seed, world.history[-5:], world.job.status.attempts[-1:])


@shapes
def test_a_second_plan_is_empty(shape: dict[str, Any]) -> None:
    for seed in SEEDS:
        world = World(seed, **shape)
        for _ in range(25):
            disturb(world)
            world.tick(5, faults=True)
            before = world.observe()
            first = world.run_operator()
            assert first is not None
            acted = first.finalizer is not None or first.stop or first.delete
            if world.refuses or acted or world.observe() != before:
                continue  # What the operator did has consequences of its own.
            status = world.job.status
            again = world.run_operator()
            assert again is not None
            assert again.status == status, seed
            assert (again.create, again.stop, again.delete, again.finalizer) == (None, (), (), None), seed


@shapes
def test_a_killed_operator_creates_no_attempt_twice(shape: dict[str, Any]) -> None:
    for seed in SEEDS:
        world = World(seed, **shape)
        for _ in range(60):
            world.tick(5, faults=True)
            world.run_operator(crash_after=world.random.choice([None, 1, 2, 3]))
        assert len(world.created) == len(set(world.created)), seed


def test_a_deleted_job_lets_go_in_the_end() -> None:
    for seed in SEEDS:
        world = World(seed, deletionPolicy="Delete")
        run_with_faults(world, rounds=seed % 20)
        world.refuses = False
        world.delete_finetune_job()
        for _ in range(100):
            world.tick(20, faults=seed % 2 == 0)
            world.run_operator()
            if world.gone:
                break
        assert world.gone, (seed, world.history[-3:])
        assert not world.live_attempts(), seed
