"""Turns one row into an example by the format of its source, or says why it cannot."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from finetune_api.spec import DataFormat, Task
from finetune_trainer.data.formats.classes import known_label, question_and_label, read_label
from finetune_trainer.data.formats.columns import Columns, RowFormat
from finetune_trainer.data.formats.pairs import (
    alpaca,
    input_target,
    is_conversational,
    prompt_and_completion_messages,
    prompt_and_completion_texts,
)
from finetune_trainer.data.formats.plain_turns import read_plain_turns
from finetune_trainer.data.formats.row_values import (
    Row,
    Unusable,
    as_object,
    optional_text,
    required_text,
    required_value,
)
from finetune_trainer.data.formats.tool_calls import tools_of
from finetune_trainer.data.formats.turns import read_turns, refuse_unlearnable
from finetune_trainer.data.rows import (
    Continuation,
    Conversation,
    Example,
    LabelledText,
    Message,
    Place,
    RawRow,
    RowProblem,
)


@dataclass(frozen=True)
class FormatContext:
    """What of the job decides how a row is read.

    `labels` are the job's; for CausalLM, which names none, those found in the data (`label_of`), sorted.
    """

    task: Task
    system_prompt: str | None
    labels: tuple[str, ...]

    @cached_property
    def known_labels(self) -> frozenset[str]:
        """The labels, to look them up."""
        return frozenset(self.labels)


def read_example(row: RawRow, row_format: RowFormat, context: FormatContext) -> Example | RowProblem:
    """Turn a row into an example, with the job's system prompt where the row has none of its own."""
    try:
        return _example(row.place, as_object(row.value), row_format, context)
    except Unusable as unusable:
        return RowProblem(row.place, unusable.reason, unusable.column)
    except RecursionError:
        return RowProblem(row.place, "the row is nested too deeply")


def label_of(row: RawRow, row_format: RowFormat) -> str | RowProblem | None:
    """The class of a row of format Classification; None for every other format."""
    if row_format.format is not DataFormat.CLASSIFICATION:
        return None
    assert row_format.columns.label is not None
    try:
        return read_label(as_object(row.value), row_format.columns.label)
    except Unusable as unusable:
        return RowProblem(row.place, unusable.reason, unusable.column)


def _example(place: Place, row: Row, row_format: RowFormat, context: FormatContext) -> Example:
    columns = row_format.columns
    if row_format.format is DataFormat.CLASSIFICATION:
        return _classified(place, row, columns, context)
    if context.task is Task.SEQUENCE_CLASSIFICATION:
        raise Unusable(
            f"format {row_format.format} has no label, which task SequenceClassification needs; "
            "set format: Classification, or write {text, label}"
        )
    if row_format.format is DataFormat.TEXT:
        # A system prompt belongs to conversations; plain text is learned as it stands.
        assert columns.text is not None
        return Continuation(place, "", required_text(row, columns.text))
    if row_format.format is DataFormat.PROMPT_COMPLETION and not is_conversational(row, columns):
        return Continuation(place, *prompt_and_completion_texts(row, columns, context.system_prompt))
    messages = _messages(row, row_format)
    return Conversation(
        place, _with_system(messages, row, columns, context.system_prompt), tools_of(row, columns.tools)
    )


def _messages(row: Row, row_format: RowFormat) -> tuple[Message, ...]:
    columns = row_format.columns
    match row_format.format:
        case DataFormat.INPUT_TARGET:
            return input_target(row, columns)
        case DataFormat.ALPACA:
            return alpaca(row, columns)
        case DataFormat.PROMPT_COMPLETION:
            return prompt_and_completion_messages(row, columns)
    if columns.text is not None:
        messages = read_plain_turns(required_text(row, columns.text), columns.text)
        refuse_unlearnable(messages, columns.text)
        return messages
    assert columns.messages is not None
    messages = read_turns(required_value(row, columns.messages), columns.messages)
    refuse_unlearnable(messages, columns.messages)
    return messages


def _with_system(
    messages: tuple[Message, ...], row: Row, columns: Columns, system_prompt: str | None
) -> tuple[Message, ...]:
    if any(message.role == "system" for message in messages):
        return messages
    system = optional_text(row, columns.system) or system_prompt
    return (Message("system", system), *messages) if system else messages


def _classified(place: Place, row: Row, columns: Columns, context: FormatContext) -> Example:
    assert columns.text is not None and columns.label is not None
    text = required_text(row, columns.text)
    label = known_label(row, columns.label, context.labels, context.known_labels)
    if context.task is Task.SEQUENCE_CLASSIFICATION:
        return LabelledText(place, text, label)
    messages = question_and_label(text, label, context.labels)
    return Conversation(place, _with_system(messages, row, columns, context.system_prompt), label=label)
