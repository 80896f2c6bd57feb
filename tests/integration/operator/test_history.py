"""A job of many attempts: its history is capped, and the object stays small however much its pods have to say."""

from __future__ import annotations

import json

import pytest

from tests.integration.operator.api_client import Api
from tests.integration.operator.kubelet import End
from tests.integration.operator.nodes import StandInNodes
from tests.integration.operator.scripted_kubelet import GOOD_ENDS, Part, Script, ScriptedKubelet
from tests.integration.operator.steps import apply_job, attempts, saved

MAX_BYTES = 16 * 1024
SHOWN = 10
LONGEST = "Schrittweite zu groß, 学习率过高 🔥 " * 60


def end_with_much_to_say(attempt: int) -> End:
    """It got one step further, saved, was told to go, and explains itself at length."""
    return End(22, message={**saved(attempt), "message": LONGEST})


def run_attempts(api: Api, count: int) -> None:
    """Let a job come to its `count`-th attempt of training, which runs."""

    def play(part: Part) -> Script:
        if part.stage == "prepare":
            return Script(GOOD_ENDS[part.stage])
        return Script(end_with_much_to_say(part.attempt), run_seconds=0.0 if part.attempt < count else None)

    with ScriptedKubelet(api, play):
        apply_job(api)
        api.wait_for_status("bot", 15 + 3 * count, phase="Training", preemptions=count - 1)


def check_size(api: Api, count: int) -> None:
    """The newest attempts are there, and the object is small."""
    told = attempts(api)
    assert [number for _, number, *_ in told] == list(range(count - SHOWN + 1, count + 1))
    job = api.job("bot")
    size = len(json.dumps(job, separators=(",", ":"), ensure_ascii=False).encode())
    assert size <= MAX_BYTES, f"{size} bytes after {count} attempts"
    newest = job["status"]["attempts"][-2]
    assert newest["message"].startswith("Schrittweite zu groß")
    assert job["status"]["checkpoint"]["step"] == count - 1
    assert job["status"]["restarts"] == 0


def test_after_more_attempts_than_are_shown_it_is_small(api: Api, nodes: StandInNodes) -> None:
    run_attempts(api, SHOWN + 4)
    check_size(api, SHOWN + 4)


@pytest.mark.long_fault
def test_after_fifty_attempts_it_is_small(api: Api, nodes: StandInNodes) -> None:
    run_attempts(api, 50)
    check_size(api, 50)
