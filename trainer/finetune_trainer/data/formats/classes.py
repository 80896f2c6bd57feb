"""Texts with a class: what counts as a label, and the question a language model is asked about the text."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from finetune_trainer.data.formats.row_values import Row, Unusable, cut, kind_of, listed, required_value
from finetune_trainer.data.rows import Message


def read_label(row: Row, column: str) -> str:
    """The label as text: numbers as they are written, true and false in small letters. Raises Unusable."""
    value = required_value(row, column)
    name = f"label (column {cut(column)})"
    if value is None:
        raise Unusable(f"{name} is null; every row needs a label", column)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return _number(value, name, column)
    if not isinstance(value, str):
        raise Unusable(f"{name} is {kind_of(value)}; it must be one text, number or true/false", column)
    label = value.strip()
    if not label:
        raise Unusable(f"{name} is empty; every row needs a label", column)
    # What pandas writes for a missing value.
    if label.lower() == "nan":
        raise Unusable(f"{name} is NaN (not a number); every row needs a label", column)
    return label


def _number(value: float, name: str, column: str) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        written = "NaN (not a number)" if math.isnan(value) else "infinite"
        raise Unusable(f"{name} is {written}; every row needs a label", column)
    # One missing value turns a whole column of integers into floats.
    return str(int(value)) if value == int(value) else str(value)


def known_label(row: Row, column: str, labels: Sequence[str], known: Collection[str]) -> str:
    """The row's label, which must be one of the job's; a number that names none counts them from 0. Raises Unusable."""
    label = read_label(row, column)
    if label in known or not labels:
        return label
    # Hub data sets keep classes as numbers; spec.labels lists them in this order.
    if not isinstance(row[column], (bool, str)) and label.isdecimal() and int(label) < len(labels):
        return labels[int(label)]
    raise Unusable(f"label '{cut(label)}' is none of the labels ({listed(labels)})", column)


def question_and_label(text: str, label: str, labels: Sequence[str]) -> tuple[Message, ...]:
    """The text as an instruction for a language model, with its label as the answer."""
    # Fixed words: the tuned model is asked the same way later.
    choices = ", ".join(labels) if labels else label
    instruction = f"Classify the text. Answer with one of these labels: {choices}."
    return Message("user", f"{instruction}\n\n{text}"), Message("assistant", label)
