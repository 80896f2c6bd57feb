"""What counts as a right find, and how the scores are computed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune_api.spec.preparation import Redaction
from finetune_trainer.data.redaction.measurement import LabelledCase, Score, load_cases, measure_redaction
from finetune_trainer.data.redaction.spans import Span

TEXT = "write to ann@example.com"  # the address is 9..24, 15 characters


def overall(*spans: Span) -> Score:
    return measure_redaction([LabelledCase(TEXT, spans)]).overall


@pytest.mark.parametrize(
    ("label", "score"),
    [
        pytest.param(
            Span(Redaction.EMAIL, 9, 24), Score(right=1, found=1, labelled=1), id="the same stretch"
        ),
        pytest.param(
            Span(Redaction.EMAIL, 8, 24), Score(right=1, found=1, labelled=1), id="one sign in 16 off"
        ),
        pytest.param(
            Span(Redaction.EMAIL, 6, 24), Score(right=0, found=1, labelled=1), id="too much labelled"
        ),
        pytest.param(
            Span(Redaction.EMAIL, 13, 24), Score(right=0, found=1, labelled=1), id="too little labelled"
        ),
        pytest.param(Span(Redaction.PHONE, 9, 24), Score(right=0, found=1, labelled=1), id="another kind"),
    ],
)
def test_a_find_is_right_when_kind_and_nine_tenths_agree(label: Span, score: Score) -> None:
    assert overall(label) == score


def test_precision_counts_wrong_finds_and_recall_missed_labels() -> None:
    score = Score(right=6, found=8, labelled=12)
    assert (score.precision, score.recall) == (0.75, 0.5)


def test_a_kind_without_labels_and_finds_is_perfect() -> None:
    measured = measure_redaction([LabelledCase("nothing here", ())])
    assert (measured.overall.precision, measured.overall.recall) == (1.0, 1.0)
    assert measured.mistakes == ()


def test_mistakes_say_what_was_missed_and_what_was_wrong() -> None:
    label = Span(Redaction.PHONE, 0, 5)
    (mistake,) = measure_redaction([LabelledCase(TEXT, (label,))]).mistakes
    assert mistake.missed == (label,)
    assert mistake.wrong == (Span(Redaction.EMAIL, 9, 24),)


def test_the_table_has_a_line_for_each_kind_and_one_for_all() -> None:
    lines = measure_redaction([LabelledCase(TEXT, (Span(Redaction.EMAIL, 9, 24),))]).as_table().splitlines()
    assert [line.split()[0] for line in lines] == ["kind", *(kind.value for kind in Redaction), "all"]
    assert lines[1].split() == ["Email", "1", "1", "1", "1.0000", "1.0000"]


def test_cases_are_read_from_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    row = {"text": TEXT, "spans": [{"kind": "Email", "start": 9, "end": 24}]}
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert list(load_cases(path)) == [LabelledCase(TEXT, (Span(Redaction.EMAIL, 9, 24),))]
