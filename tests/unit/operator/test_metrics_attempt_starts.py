"""Queue wait and time to the first step: once per attempt, and only where both ends are certain."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.status import FineTuneJobStatus
from finetune_operator.attempt_starts import AttemptStarts, Starts
from tests.unit.operator.builders import make_job

STARTED, RUNNING_SINCE = "2026-01-01T12:00:00Z", "2026-01-01T12:05:00Z"
NOTHING = Starts()


def status(
    *, reported: str | None = None, checkpoint_step: int | None = None, **attempt: Any
) -> FineTuneJobStatus:
    """A job whose newest attempt is a train attempt; `reported`: when its step was."""
    body: dict[str, Any] = {
        "attempts": [
            {
                "number": 1,
                "stage": "train",
                "jobUID": "a",
                "outcome": "Running",
                "started": STARTED,
                **attempt,
            }
        ]
    }
    if reported:
        body["progress"] = {"step": attempt["step"], "totalSteps": 90, "lastUpdateTime": reported}
    if checkpoint_step is not None:
        body["checkpoint"] = {"step": checkpoint_step, "uri": "s3://c", "time": STARTED}
    return FineTuneJobStatus.model_validate(body)


def running(**changes: Any) -> FineTuneJobStatus:
    return status(**{"runningSince": RUNNING_SINCE, "node": "n", **changes})


def measure(*statuses: FineTuneJobStatus) -> list[Starts]:
    """Write one status after the other; what each write measured."""
    starts, job = AttemptStarts(), make_job()
    steps = zip((FineTuneJobStatus(), *statuses), statuses, strict=False)
    return [starts.observe(job.with_status(old), job.with_status(new)) for old, new in steps]


@pytest.mark.parametrize(
    ("statuses", "waits"),
    [
        pytest.param([status(), running()], [None, 300], id="the containers run after five minutes"),
        pytest.param([running()], [300], id="the Job and its start are written at once"),
        pytest.param([running(), running()], [300, None], id="only once"),
        pytest.param(
            [running(), status(node="n"), running(runningSince="2026-01-01T18:00:00Z")],
            [300, None, None],
            id="a second start of the same attempt, after an eviction, is no wait since its creation",
        ),
        pytest.param(
            [status(), status(runningSince="2026-01-01T11:59:59Z")], [None, 0], id="clocks that differ"
        ),
        pytest.param([running(stage="prepare")], [None], id="another stage does not queue for GPUs"),
    ],
)
def test_queue_wait(statuses: list[FineTuneJobStatus], waits: list[float | None]) -> None:
    assert [each.queue_wait_seconds for each in measure(*statuses)] == waits


AT_6, AT_7, AT_8 = (f"2026-01-01T12:0{minute}:00Z" for minute in (6, 7, 8))


@pytest.mark.parametrize(
    ("statuses", "seconds"),
    [
        pytest.param(
            [running(), running(step=0, reported=AT_6), running(step=3, reported=AT_7)],
            [None, None, 120],
            id="the plan is reported, then a step",
        ),
        pytest.param(
            [running(), running(step=3, reported=AT_6)],
            [None, 60],
            id="the first report is of a step already",
        ),
        pytest.param(
            [
                running(),
                running(step=3, reported=AT_6),
                running(step=4, reported=AT_7),
                running(step=4, reported=AT_8, checkpoint_step=4),
                running(step=5, reported=AT_8),
            ],
            [None, 60, None, None, None],
            id="only once, whatever is saved meanwhile",
        ),
        pytest.param(
            [
                running(checkpoint_step=40),
                running(step=40, reported=AT_6, checkpoint_step=40),
                running(step=41, reported=AT_7, checkpoint_step=40),
            ],
            [None, None, 120],
            id="the step that it resumed from is not its own",
        ),
        pytest.param(
            [running(step=7, reported=AT_6), running(step=8, reported=AT_7)],
            [60, None],
            id="start and step are seen at once",
        ),
    ],
)
def test_time_to_first_step(statuses: list[FineTuneJobStatus], seconds: list[float | None]) -> None:
    assert [each.first_step_seconds for each in measure(*statuses)] == seconds


def test_after_a_restart_of_the_operator_nothing_is_guessed() -> None:
    starts, job = AttemptStarts(), make_job()

    measured = starts.observe(
        job.with_status(running(step=0, reported=AT_6)), job.with_status(running(step=3, reported=AT_7))
    )

    assert measured == NOTHING
