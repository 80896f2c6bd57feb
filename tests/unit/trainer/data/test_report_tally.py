"""The tally: merged in any split of the rows it counts the same, and it stays small."""

from __future__ import annotations

import pickle

import pytest

from finetune_trainer.data.report import Tally
from finetune_trainer.data.report.tally import EXAMPLES_KEPT, EXCERPT_CHARACTERS, cut_excerpt
from finetune_trainer.data.rows import DropReason
from tests.builders.data_reports import place


def count_rows(tally: Tally, lines: range) -> Tally:
    """Count these lines: every third invalid, every fourth changed, every fifth cut."""
    for line in lines:
        tally.read(line % 2)
        if line % 3 == 0:
            tally.drop(DropReason.INVALID, place(line), f"why {line}", column="text", excerpt=f"row {line}")
        if line % 4 == 0:
            tally.change("html", 3)
        if line % 5 == 0:
            tally.truncate()
    return tally


def test_tallies_of_chunks_merge_to_the_tally_of_all_rows() -> None:
    whole = count_rows(Tally(), range(100))
    merged = Tally()
    for start in range(0, 100, 7):
        chunk = count_rows(Tally(), range(start, min(start + 7, 100)))
        merged.merge(pickle.loads(pickle.dumps(chunk)))
    assert merged == whole
    assert merged.rows_read_by_source == {0: 50, 1: 50}
    assert (merged.rows_read, merged.rows_dropped, merged.rows_truncated) == (100, 34, 20)
    assert [(each.step, each.rows, each.occurrences) for each in merged.changed()] == [("html", 25, 75)]


def test_the_first_examples_are_kept_and_all_rows_counted() -> None:
    tally = count_rows(Tally(), range(1000))
    (dropped,) = tally.dropped()
    assert (dropped.reason, dropped.rows, dropped.share) == (DropReason.INVALID, 334, 0.334)
    assert [example.why for example in dropped.first] == [f"why {line}" for line in range(0, 30, 3)]
    assert len(dropped.first) == EXAMPLES_KEPT
    assert dropped.first[1].where == "s3://support/tickets/2025-q4.jsonl line 3"
    assert (dropped.first[1].column, dropped.first[1].excerpt) == ("text", "row 3")


def test_a_tally_is_no_larger_for_a_million_drops() -> None:
    few, many = Tally(), Tally()
    for line in range(EXAMPLES_KEPT):
        few.drop(DropReason.NOISE, place(line), "noise", excerpt="x" * 10_000)
    for line in range(100_000):
        many.drop(DropReason.NOISE, place(line), "noise", excerpt="x" * 10_000)
    assert len(pickle.dumps(many)) <= len(pickle.dumps(few)) + 8


def test_reasons_without_rows_are_not_reported() -> None:
    tally = Tally()
    assert tally.dropped() == ()
    assert tally.rows_dropped_for(DropReason.NOISE) == 0
    assert tally.first_dropped(DropReason.NOISE) == ()
    assert tally.rows_dropped_for(DropReason.NOISE) == 0
    assert tally.dropped() == ()


def test_reasons_stand_in_the_order_in_which_a_row_meets_them() -> None:
    tally = Tally()
    for reason in (DropReason.BALANCE, DropReason.DUPLICATE, DropReason.INVALID):
        tally.read(0)
        tally.drop(reason, place(1), "")
    assert [each.reason for each in tally.dropped()] == [
        DropReason.INVALID,
        DropReason.DUPLICATE,
        DropReason.BALANCE,
    ]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("plain", "plain", id="a short text stays"),
        pytest.param("a\n\n  b\tc ", "a b c", id="white space is folded"),
        pytest.param("x" * 120, "x" * 120, id="as long as allowed"),
        pytest.param("x" * 121, "x" * 119 + "…", id="one more"),
        pytest.param("x" * 100_000, "x" * 119 + "…", id="far more"),
        pytest.param("字" * 121, "字" * 119 + "…", id="characters, not bytes"),
        pytest.param("a" + " " * 1000 + "b", "a…", id="white space that hides the rest"),
        pytest.param("a\x1b[31mb\u202ec", "a\ufffd[31mb\ufffdc", id="terminal and bidi controls"),
        pytest.param("\ud800", "\ufffd", id="half a character"),
        pytest.param("👩\u200d🔧", "👩\u200d🔧", id="joined emoji stay whole"),
    ],
)
def test_an_excerpt_is_one_short_safe_line(text: str, shown: str) -> None:
    assert cut_excerpt(text) == shown
    assert len(cut_excerpt(text)) <= EXCERPT_CHARACTERS
