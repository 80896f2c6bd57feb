"""The termination message fits the kubelet's 4,096 bytes and survives what containers leave there instead."""

from __future__ import annotations

import json

import pytest

from finetune_api.termination import (
    MAX_TERMINATION_MESSAGE_BYTES,
    ExportedFacts,
    TerminationMessage,
    parse_termination_message,
)


def test_a_long_sentence_is_cut_and_the_facts_are_kept() -> None:
    exported = ExportedFacts(adapter_uri="s3://m/a", manifest_digest="0" * 64)
    message = TerminationMessage(reason="DataError", message="行" * 5000, exported=exported)

    encoded = message.encode()

    parsed = parse_termination_message(encoded)
    assert len(encoded.encode()) <= MAX_TERMINATION_MESSAGE_BYTES
    assert parsed is not None
    assert parsed.exported == exported
    assert parsed.message.startswith("行行")


def test_a_long_list_of_findings_is_cut_between_two_and_keeps_what_to_do() -> None:
    rows = "; ".join(f"s3://data/train.jsonl line {number}: `messages` is “empty”" for number in range(200))
    action = "Correct them. Report: s3://models/bot/data-report.html"
    message = TerminationMessage(reason="DataError", message=f"200 rows cannot be used: {rows}. {action}")

    encoded = message.encode()

    parsed = parse_termination_message(encoded)
    assert parsed is not None
    assert parsed.message.endswith(f"is “empty”; … {action}")
    assert 0.9 * MAX_TERMINATION_MESSAGE_BYTES < len(encoded.encode()) <= MAX_TERMINATION_MESSAGE_BYTES


def test_what_an_earlier_prepare_left_is_still_read() -> None:
    facts = {"datasetDigest": "d", "modelDigest": "m", "rowsUsed": 4, "rowsDropped": 1, "totalSteps": 2}

    parsed = parse_termination_message(json.dumps({"reason": "Prepared", "message": "", "prepared": facts}))

    assert parsed is not None
    assert parsed.prepared is not None
    assert (parsed.prepared.rows_used, parsed.prepared.rows_validation, parsed.prepared.rows_test) == (
        4,
        0,
        0,
    )
    assert parsed.prepared.model_revision is None


@pytest.mark.parametrize("text", [None, "", "Killed", "{", '{"reason": "x"}', "[]"])
def test_anything_else_is_no_message(text: str | None) -> None:
    assert parse_termination_message(text) is None
