"""The termination message fits the kubelet's 4,096 bytes and survives what containers leave there instead."""

from __future__ import annotations

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


@pytest.mark.parametrize("text", [None, "", "Killed", "{", '{"reason": "x"}', "[]"])
def test_anything_else_is_no_message(text: str | None) -> None:
    assert parse_termination_message(text) is None
