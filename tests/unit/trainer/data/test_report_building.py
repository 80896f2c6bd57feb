"""Facts to report: what adds up, what is cut, and how rows are shown."""

from __future__ import annotations

import array
from collections.abc import Sequence

import pytest

from finetune_trainer.data.prepared import TokenizedRow
from finetune_trainer.data.report import (
    DataReport,
    DuplicatePair,
    DuplicateReport,
    SampleRow,
    SourceFacts,
    Tally,
    describe_sample,
    sample_positions,
)
from finetune_trainer.data.report.samples import build_sample
from finetune_trainer.data.rows import DropReason, Split
from tests.builders.data_reports import (
    decode,
    make_chat,
    make_data_report,
    make_eventful_report,
    make_row,
    place,
)


def test_every_row_that_was_read_is_used_or_dropped() -> None:
    report = make_eventful_report()
    assert report.rows_read == report.rows_used + report.rows_dropped == 10_514
    assert report.rows_dropped == sum(dropped.rows for dropped in report.dropped) == 330
    assert report.rows_read == sum(source.rows_read for source in report.sources)


def test_counts_that_do_not_add_up_are_refused() -> None:
    tally = Tally()
    for _ in range(5):
        tally.read(0)
    tally.drop(DropReason.NOISE, place(1), "noise")
    with pytest.raises(AssertionError, match="5 rows read, 3 used, 1 dropped"):
        make_data_report(tally=tally, sources=[SourceFacts("s", Split.TRAIN, "Text", "", rows_used=3)])


def test_tokens_are_those_of_the_training_rows() -> None:
    lengths = {Split.TRAIN: [10, 30], Split.VALIDATION: [500], Split.TEST: [1, 2, 3]}
    report = make_data_report(lengths=lengths, learned_tokens=10)
    assert (report.tokens, report.learned_tokens, report.mask_coverage) == (40, 10, 0.25)
    assert report.lengths.longest == 30
    assert report.rows_by_split.model_dump() == {"train": 2, "validation": 1, "test": 3}


def test_equal_facts_give_equal_bytes_that_parse_back() -> None:
    written = make_eventful_report().model_dump_json(indent=2)
    assert written == make_eventful_report().model_dump_json(indent=2)
    assert DataReport.model_validate_json(written) == make_eventful_report()


def test_long_lists_are_cut() -> None:
    pairs = tuple(DuplicatePair(where=str(line), repeats="0", similarity=1) for line in range(30))
    files = tuple(f"s3://data/{number}.jsonl" for number in range(500))
    report = make_data_report(
        duplicates=DuplicateReport(method="Exact", threshold=None, exact=30, near=0, pairs=pairs),
        leakage=pairs,
        sources=[SourceFacts("s3://data/", Split.TRAIN, "Text", "", rows_used=4, files=files)],
        samples=[SampleRow(place(line), Split.TRAIN, make_chat("q", "a")) for line in range(60)],
    )
    assert report.duplicates is not None
    assert len(report.duplicates.pairs) == len(report.leakage) == 10
    assert (len(report.sources[0].files), report.sources[0].file_count) == (20, 500)
    assert len(report.samples) == 5


@pytest.mark.parametrize(
    ("rows", "positions"),
    [
        (0, ()),
        (1, (0,)),
        (5, (0, 1, 2, 3, 4)),
        (6, (0, 1, 2, 3, 5)),
        (1001, (0, 250, 500, 750, 1000)),
    ],
)
def test_samples_are_spread_from_the_first_row_to_the_last(rows: int, positions: tuple[int, ...]) -> None:
    assert sample_positions(rows) == positions


def test_a_sample_tells_learned_tokens_from_others() -> None:
    row = make_chat("退款？", "好的。", "谢谢", "不客气")
    sample = build_sample(SampleRow(place(3), Split.VALIDATION, row), decode)
    assert [(segment.text, segment.learned) for segment in sample.segments] == [
        ("<|im_start|>user\n退款？<|im_end|>\n<|im_start|>assistant\n", False),
        ("好的。<|im_end|>", True),
        ("\n<|im_start|>user\n谢谢<|im_end|>\n<|im_start|>assistant\n", False),
        ("不客气<|im_end|>", True),
        ("\n", False),
    ]
    assert (sample.where, sample.split) == ("s3://support/tickets/2025-q4.jsonl line 3", Split.VALIDATION)
    assert sample.learned_tokens == len("好的。<|im_end|>不客气<|im_end|>")
    assert "assistant⏎«好的。<|im_end|>»⏎" in describe_sample(sample)


def test_a_long_sample_is_cut_and_says_so() -> None:
    sample = build_sample(SampleRow(place(1), Split.TRAIN, make_row("a" * 1000, "b" * 1000)), decode)
    assert (sample.tokens, sample.shown_tokens, sample.learned_tokens) == (2000, 1024, 1000)
    assert [len(segment.text) for segment in sample.segments] == [1000, 24]


def test_a_tokenizer_that_drops_a_leading_space_loses_none_between_segments() -> None:
    words = {1: " Where", 2: " is", 3: " it"}

    def decode_like_sentence_piece(ids: Sequence[int]) -> str:
        return "".join(words[each] for each in ids).removeprefix(" ")

    row = TokenizedRow(array.array("i", [1, 2, 3]), b"\x00\x01\x00")
    sample = build_sample(SampleRow(place(1), Split.TRAIN, row), decode_like_sentence_piece)
    assert [segment.text for segment in sample.segments] == ["Where", " is", " it"]


def test_a_character_cut_between_segments_is_shown_as_each_part_alone() -> None:
    whole = "字".encode()

    def decode_bytes(ids: Sequence[int]) -> str:
        return bytes(ids).decode(errors="replace")

    row = TokenizedRow(array.array("i", list(whole)), b"\x00\x01\x01")
    sample = build_sample(SampleRow(place(1), Split.TRAIN, row), decode_bytes)
    assert [segment.learned for segment in sample.segments] == [False, True]
    assert all("\ufffd" in segment.text for segment in sample.segments)
