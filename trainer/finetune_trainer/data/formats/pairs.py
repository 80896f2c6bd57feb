"""Formats of a question and an answer in columns: InputTarget, Alpaca, PromptCompletion."""

from __future__ import annotations

from dataclasses import replace

from finetune_trainer.data.formats.columns import Columns
from finetune_trainer.data.formats.row_values import (
    Row,
    Unusable,
    as_text,
    cut,
    is_blank,
    kind_of,
    optional_text,
    parse_json,
    required_text,
    required_value,
)
from finetune_trainer.data.formats.turns import read_turns, refuse_unlearnable
from finetune_trainer.data.rows import Message


def input_target(row: Row, columns: Columns) -> tuple[Message, ...]:
    """One question and one answer."""
    assert columns.input is not None and columns.target is not None
    return (
        Message("user", required_text(row, columns.input)),
        Message("assistant", required_text(row, columns.target)),
    )


def alpaca(row: Row, columns: Columns) -> tuple[Message, ...]:
    """Earlier turns, then the instruction with its input below it, then the output."""
    assert columns.instruction is not None and columns.output is not None
    required_value(row, columns.instruction)
    parts = (optional_text(row, columns.instruction), optional_text(row, columns.input))
    question = "\n".join(part for part in parts if part)
    if not question:
        raise Unusable(f"column {cut(columns.instruction)} is empty", columns.instruction)
    return (
        *_history(row, columns.history),
        Message("user", question),
        Message("assistant", required_text(row, columns.output)),
    )


def _history(row: Row, column: str | None) -> list[Message]:
    value = None if column is None else row.get(column)
    if is_blank(value):
        return []
    assert column is not None
    name = f"column {cut(column)}"
    # CSV has no lists: there it is JSON text.
    turns = parse_json(value, name, column) if isinstance(value, str) else value
    if not isinstance(turns, list):
        raise Unusable(f"{name} is {kind_of(turns)}; it must be a list of [question, answer]", column)
    messages = []
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, list) or len(turn) != 2:
            raise Unusable(f"item {number} of {name} must be [question, answer]", column)
        question, answer = (as_text(said, f"item {number} of {name}", column) for said in turn)
        if not question.strip():
            raise Unusable(f"the question of item {number} of {name} is empty", column)
        messages += [Message("user", question), Message("assistant", answer)]
    return messages


def is_conversational(row: Row, columns: Columns) -> bool:
    """Whether prompt and completion are lists of messages, not texts."""
    assert columns.prompt is not None and columns.completion is not None
    prompt, completion = required_value(row, columns.prompt), required_value(row, columns.completion)
    if isinstance(prompt, list) != isinstance(completion, list):
        raise Unusable(
            f"{cut(columns.prompt)} is {kind_of(prompt)} and {cut(columns.completion)} is {kind_of(completion)}; "
            "both must be text, or both lists of messages",
            columns.completion,
        )
    return isinstance(prompt, list)


def prompt_and_completion_messages(row: Row, columns: Columns) -> tuple[Message, ...]:
    """The prompt's messages, of which none is learned, and the completion's."""
    assert columns.prompt is not None and columns.completion is not None
    prompt = read_turns(row[columns.prompt], columns.prompt)
    completion = read_turns(row[columns.completion], columns.completion)
    refuse_unlearnable(completion, columns.completion)
    return (*(replace(message, is_learned=False) for message in prompt), *completion)


def prompt_and_completion_texts(row: Row, columns: Columns, system_prompt: str | None) -> tuple[str, str]:
    """What is given and what is learned. There is no template to place a system text: it stands before the prompt."""
    assert columns.prompt is not None and columns.completion is not None
    prompt = required_text(row, columns.prompt)
    completion = required_text(row, columns.completion)
    system = optional_text(row, columns.system) or system_prompt
    return (f"{system}\n\n{prompt}" if system else prompt), completion
