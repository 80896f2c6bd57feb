"""What a report may say of a checkpoint, of a stop and of what is not as it should be."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from finetune_api.progress import Notice, NoticeReason, ProgressReport, TrainingReport

STORE = {"reason": "StoreUnavailable", "message": "The store does not answer."}
RARER = {"reason": "SavesAreRarer", "message": "Saves take 90 s."}
LATER = {"reason": "OfALaterVersion", "message": "?"}
CHECKPOINT = {"step": 10, "uri": "s3://c/10", "time": "2026-01-01T00:00:00Z"}


def parse(**training: Any) -> TrainingReport:
    """What is read of a request's body."""
    body = {"trainerStatus": {}, "finetune": {"step": 1, "totalSteps": 9, **training}}
    report = ProgressReport.model_validate_json(json.dumps(body))
    assert report.finetune is not None
    return report.finetune


def reasons(*notices: Any) -> list[str]:
    return [notice.reason for notice in parse(notices=notices).notices]


NOTICES: dict[str, tuple[list[Any], list[str]]] = {
    "none": ([], []),
    "in their order": ([RARER, STORE], ["SavesAreRarer", "StoreUnavailable"]),
    "one of a later version is left out": ([LATER, STORE], ["StoreUnavailable"]),
    "so are many of a later version": ([LATER] * 20 + [STORE], ["StoreUnavailable"]),
    "fields of a later version": ([{**STORE, "since": "12:00"}], ["StoreUnavailable"]),
    "the longest message": ([{**STORE, "message": "存" * 512}], ["StoreUnavailable"]),
    "as many as there may be": ([STORE] * 8, ["StoreUnavailable"] * 8),
}


@pytest.mark.parametrize(("told", "read"), NOTICES.values(), ids=NOTICES.keys())
def test_notices_are_read(told: list[Any], read: list[str]) -> None:
    assert reasons(*told) == read


def test_a_report_without_notices_has_none() -> None:
    assert parse().notices == ()


def test_what_the_trainer_builds_is_what_the_operator_reads() -> None:
    notice = Notice(reason=NoticeReason.CHECKPOINT_PASSED_OVER, message="Step 20 is damaged.")
    built = TrainingReport(step=1, total_steps=9, stop_seconds=12.5, notices=(notice,))
    report = ProgressReport(finetune=built)

    assert ProgressReport.model_validate_json(report.model_dump_json(exclude_none=True)) == report


REFUSED: dict[str, dict[str, Any]] = {
    "too many notices": {"notices": [STORE] * 9},
    "a message that is too long": {"notices": [{**STORE, "message": "x" * 513}]},
    "a notice without a message": {"notices": [{"reason": "StoreUnavailable"}]},
    "a notice without a reason": {"notices": [{"message": "Something."}]},
    "a reason that is no text": {"notices": [{**STORE, "reason": 7}]},
    "a notice that is no object": {"notices": ["StoreUnavailable"]},
    "notices that are no list": {"notices": STORE},
    "a stop in less than no time": {"stopSeconds": -1},
    "a stop that takes longer than a machine lives": {"stopSeconds": 1e10},
    "a save in less than no time": {"checkpoint": {**CHECKPOINT, "saveSeconds": -0.1}},
    "a checkpoint of less than nothing": {"checkpoint": {**CHECKPOINT, "sizeBytes": -1}},
    "a checkpoint larger than a number may be": {"checkpoint": {**CHECKPOINT, "sizeBytes": 2**53}},
}


@pytest.mark.parametrize("training", REFUSED.values(), ids=REFUSED.keys())
def test_what_status_could_not_hold_is_refused(training: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        parse(**training)


def test_what_was_measured_of_a_checkpoint_is_read_and_what_a_later_version_adds_is_not() -> None:
    told = parse(
        checkpoint={**CHECKPOINT, "sizeBytes": 2**40, "saveSeconds": 7.5, "colour": "red"}
    ).checkpoint

    assert told is not None
    assert (told.size_bytes, told.save_seconds) == (2**40, 7.5)
    assert "colour" not in told.model_dump()


def test_what_really_runs_may_say_more_in_a_later_version() -> None:
    effective = {
        "microBatchTokens": 8,
        "gradientAccumulation": 1,
        "worldSize": 1,
        "strategy": "DDP",
        "new": 1,
    }

    assert parse(effective=effective).effective is not None
