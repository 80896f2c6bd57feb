"""Texts with a class, for both tasks, and texts without one."""

from __future__ import annotations

import math
from typing import Any

import pytest

from finetune_api.spec import DataSource, Task
from finetune_trainer.data.formats import decide_format, label_of
from finetune_trainer.data.rows import Continuation, Conversation, LabelledText, Message, RawRow, RowProblem
from tests.builders.examples import PLACE, read_problem, read_row

ROW: dict[str, object] = {"text": "Great shop!", "label": "good"}
LABELS = ("bad", "good")


def classify(row: object, **changes: Any) -> object:
    return read_row(row, first_row=ROW, task=Task.SEQUENCE_CLASSIFICATION, **{"labels": LABELS, **changes})


def test_a_text_is_learned_whole() -> None:
    assert read_row({"text": "Once upon a time."}) == Continuation(PLACE, "", "Once upon a time.")


def test_a_text_has_no_place_for_a_system_prompt() -> None:
    assert read_row({"text": "Once."}, system_prompt="Be brief.") == Continuation(PLACE, "", "Once.")


def test_a_class_stays_a_class_where_the_task_is_to_classify() -> None:
    assert classify(ROW) == LabelledText(PLACE, "Great shop!", "good")


def test_a_class_becomes_an_instruction_for_a_language_model() -> None:
    assert read_row(ROW, labels=LABELS) == Conversation(
        PLACE,
        (
            Message("user", "Classify the text. Answer with one of these labels: bad, good.\n\nGreat shop!"),
            Message("assistant", "good"),
        ),
        label="good",
    )


def test_an_instruction_follows_the_jobs_system_prompt() -> None:
    example = read_row(ROW, labels=LABELS, system_prompt="Be brief.")
    assert isinstance(example, Conversation)
    assert example.messages[0] == Message("system", "Be brief.")


def test_columns_may_be_named() -> None:
    row = {"review": "Great shop!", "stars": 5}
    example = read_row(row, columns={"text": "review", "label": "stars"}, labels=("1", "5"))
    assert isinstance(example, Conversation)
    assert example.label == "5"


@pytest.mark.parametrize(
    ("written", "label"),
    [
        pytest.param("good", "good", id="text"),
        pytest.param(" good\n", "good", id="text with white space around it"),
        pytest.param(3, "3", id="an integer"),
        pytest.param(3.0, "3", id="an integer that a missing value made a float"),
        pytest.param(0.5, "0.5", id="a number"),
        pytest.param(True, "true", id="true"),
        pytest.param(False, "false", id="false"),
    ],
)
def test_a_label_is_a_word_a_number_or_a_truth(written: object, label: str) -> None:
    row_format = decide_format(DataSource.model_validate({"inline": [ROW]}), "rows", [ROW])
    assert label_of(RawRow(PLACE, {"text": "x", "label": written}), row_format) == label


def test_only_classes_have_labels() -> None:
    row: dict[str, object] = {"question": "q", "answer": "a", "label": "x"}
    row_format = decide_format(DataSource.model_validate({"inline": [row]}), "rows", [row])
    assert label_of(RawRow(PLACE, row), row_format) is None


def test_a_number_that_is_no_label_counts_the_jobs_labels() -> None:
    assert classify({"text": "x", "label": 1}) == LabelledText(PLACE, "x", "good")


def test_a_number_that_is_a_label_is_that_label() -> None:
    assert classify({"text": "x", "label": 1}, labels=("1", "0")) == LabelledText(PLACE, "x", "1")


BAD: dict[str, tuple[object, str]] = {
    "null": (None, "label (column label) is null; every row needs a label"),
    "NaN": (math.nan, "label (column label) is NaN (not a number); every row needs a label"),
    "NaN as text": ("NaN", "label (column label) is NaN (not a number); every row needs a label"),
    "an infinite number": (math.inf, "label (column label) is infinite; every row needs a label"),
    "blank": (" ", "label (column label) is empty; every row needs a label"),
    "a list": (
        ["good"],
        "label (column label) is a list; it must be one text, number or true/false",
    ),
    "an unknown one": ("great", "label 'great' is none of the labels (bad, good)"),
    "a number beyond the labels": (2, "label '2' is none of the labels (bad, good)"),
    "a negative number": (-1, "label '-1' is none of the labels (bad, good)"),
    "a whole sentence is cut": ("x" * 50, f"label '{'x' * 40} …' is none of the labels (bad, good)"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_label_says_what_is_wrong(case: str) -> None:
    label, sentence = BAD[case]
    problem = classify({"text": "x", "label": label})
    assert problem == RowProblem(PLACE, sentence, "label")


def test_of_many_labels_the_first_ten_are_named() -> None:
    labels = [f"class{number}" for number in range(12)]
    problem = classify(ROW, labels=labels)
    assert isinstance(problem, RowProblem)
    assert problem.reason.endswith(f"({', '.join(labels[:10])} and 2 more)")


def test_a_row_without_a_label_says_what_it_has() -> None:
    assert read_problem({"text": "x"}, first_row=ROW) == "column label is missing (it has text)"


def test_an_empty_text_is_refused() -> None:
    assert read_problem({"text": "", "label": "good"}, first_row=ROW) == "column text is empty"
    assert read_problem({"text": "\n"}, first_row={"text": "x"}) == "column text is empty"
