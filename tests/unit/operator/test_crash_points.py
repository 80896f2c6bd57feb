"""Crash points: where tests kill the operator, and that they do nothing for anybody else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from finetune_operator.crash_points import CRASH_POINTS, VARIABLE, CrashPlan, reach


@pytest.mark.parametrize(
    ("text", "reached", "dies_at"),
    [
        pytest.param(None, ["before-job"] * 3, None, id="nothing is set"),
        pytest.param("", ["before-job"] * 3, None, id="set to nothing"),
        pytest.param("before-job", ["after-job", "before-job"], 1, id="the first time"),
        pytest.param("before-job:3", ["before-job"] * 5, 2, id="the third time"),
        pytest.param("before-job", ["after-job"], None, id="another point"),
    ],
)
def test_it_dies_at_its_point_and_time(text: str | None, reached: list[str], dies_at: int | None) -> None:
    deaths: list[int] = []
    at = 0
    plan = CrashPlan(text, lambda: deaths.append(at))

    for at, name in enumerate(reached):  # noqa: B007 (the plan's death reads it)
        assert name in CRASH_POINTS
        plan.reach(name)

    assert deaths == ([] if dies_at is None else [dies_at])


@pytest.mark.parametrize("text", ["somewhere", "before-job:x", "before-job:-1", "before-job:0"])
def test_a_point_that_does_not_exist_is_told_at_once(text: str) -> None:
    with pytest.raises(ValueError, match="name one of before-config-map"):
        CrashPlan(text, lambda: None)


def test_without_the_variable_every_point_is_passed() -> None:
    assert VARIABLE not in os.environ
    for name in CRASH_POINTS:
        reach(name)


def test_the_process_is_killed_and_finishes_nothing() -> None:
    code = "from finetune_operator.crash_points import reach; reach('after-status'); print('survived')"
    ended = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, VARIABLE: "after-status"}, capture_output=True
    )

    assert (ended.returncode, ended.stdout) == (-signal.SIGKILL, b"")
