"""What a row means: recognises the format of a source and turns each row into a conversation, or says why it cannot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from finetune_api.spec import ColumnMapping, DataFormat, DataSource
from finetune_trainer.data.sources import RawRow, RowProblem
from finetune_trainer.errors import DataError

INPUT_COLUMNS = ("input_text", "question", "query")
TARGET_COLUMNS = ("target_text", "answer", "response")
MESSAGES_COLUMN = "messages"
ROLES = ("system", "user", "assistant")

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Message:
    """One turn."""

    role: Role
    content: str


@dataclass(frozen=True)
class Conversation:
    """One training row, whatever format it came in."""

    where: str
    messages: tuple[Message, ...]


@dataclass(frozen=True)
class PairColumns:
    """The two columns of an InputTarget row."""

    input: str
    target: str


@dataclass(frozen=True)
class RowFormat:
    """How the rows of one source are read, and why. Rows in Messages format have no pair of columns."""

    format: DataFormat
    columns: PairColumns | None
    explanation: str


class _Unusable(Exception):
    """Says why a row cannot be used, without where it stands."""


# --- recognising -----------------------------------------------------------------------------------------------


def decide_format(settings: DataSource, label: str, first_row: Mapping[str, object]) -> RowFormat:
    """Decide how a source is read, from its settings and its first row. Raises DataError if no format fits."""
    if settings.format is DataFormat.MESSAGES:
        return RowFormat(DataFormat.MESSAGES, None, f"{label}: Messages, as format says")
    if settings.columns is not None:
        pair = _named_columns(settings.columns, first_row)
        named = f"columns {pair.input} → {pair.target}, as columns says"
        return RowFormat(DataFormat.INPUT_TARGET, pair, f"{label}: InputTarget, {named}")
    found = _usual_columns(first_row)
    if settings.format is DataFormat.INPUT_TARGET:
        columns = found or PairColumns(input=INPUT_COLUMNS[0], target=TARGET_COLUMNS[0])
        return RowFormat(
            DataFormat.INPUT_TARGET,
            columns,
            f"{label}: InputTarget, columns {columns.input} → {columns.target}",
        )
    return _recognise(label, first_row, found)


def _recognise(label: str, first_row: Mapping[str, object], found: PairColumns | None) -> RowFormat:
    if isinstance(first_row.get(MESSAGES_COLUMN), list):
        because = f"its first row has a list named {MESSAGES_COLUMN}"
        return RowFormat(DataFormat.MESSAGES, None, f"{label}: recognised as Messages, because {because}")
    if found is not None:
        because = f"its first row has the columns {found.input} and {found.target}"
        return RowFormat(
            DataFormat.INPUT_TARGET, found, f"{label}: recognised as InputTarget, because {because}"
        )
    have = ", ".join(sorted(map(str, first_row))[:16]) or "none"
    raise DataError(
        f"{label}: the format was not recognised; the first row has the columns {have}. "
        "Write {messages: [{role, content}]} or {input_text, target_text}, or set dataset.train[].columns."
    )


def _usual_columns(row: Mapping[str, object]) -> PairColumns | None:
    inputs, targets = _present(INPUT_COLUMNS, row), _present(TARGET_COLUMNS, row)
    return PairColumns(inputs[0], targets[0]) if inputs and targets else None


def _named_columns(columns: ColumnMapping, row: Mapping[str, object]) -> PairColumns:
    """What is not named is called as usual."""
    inputs = [columns.input] if columns.input else [*_present(INPUT_COLUMNS, row), INPUT_COLUMNS[0]]
    targets = [columns.target] if columns.target else [*_present(TARGET_COLUMNS, row), TARGET_COLUMNS[0]]
    return PairColumns(inputs[0], targets[0])


def _present(usual: Sequence[str], row: Mapping[str, object]) -> list[str]:
    return [column for column in usual if column in row]


# --- reading a row ---------------------------------------------------------------------------------------------


def as_conversation(
    row: RawRow, row_format: RowFormat, system_prompt: str | None
) -> Conversation | RowProblem:
    """Turn a row into a conversation, with the job's system prompt where the row has none of its own."""
    try:
        columns = _as_object(row.value)
        messages = (
            _messages(columns) if row_format.columns is None else _input_target(columns, row_format.columns)
        )
    except _Unusable as reason:
        return RowProblem(f"{row.where}: {reason}")
    if system_prompt is not None and not any(message.role == "system" for message in messages):
        messages = (Message("system", system_prompt), *messages)
    return Conversation(row.where, messages)


def _input_target(row: Mapping[str, object], columns: PairColumns) -> tuple[Message, ...]:
    return (
        Message("user", _text_column(row, columns.input)),
        Message("assistant", _text_column(row, columns.target)),
    )


def _text_column(row: Mapping[str, object], column: str) -> str:
    if column not in row:
        have = ", ".join(sorted(map(str, row))[:16]) or "no columns"
        raise _Unusable(f"column {column} is missing (it has {have})")
    text = _text(row[column], column)
    if not text.strip():
        raise _Unusable(f"column {column} is empty")
    return text


def _messages(row: Mapping[str, object]) -> tuple[Message, ...]:
    value = row.get(MESSAGES_COLUMN)
    if not isinstance(value, list):
        problem = (
            f"{MESSAGES_COLUMN} is {_kind(value)}"
            if MESSAGES_COLUMN in row
            else f"{MESSAGES_COLUMN} is missing"
        )
        raise _Unusable(f"{problem}; it must be a list of {{role, content}}")
    if not value:
        raise _Unusable(f"{MESSAGES_COLUMN} is empty")
    messages = tuple(_message(number, item) for number, item in enumerate(value, start=1))
    if not any(message.role == "assistant" and message.content.strip() for message in messages):
        raise _Unusable("no assistant message has any content, so there is nothing to learn")
    return messages


def _message(number: int, value: object) -> Message:
    name = f"message {number}"
    if not isinstance(value, dict):
        raise _Unusable(f"{name} is {_kind(value)}; it must be an object with role and content")
    role = value.get("role")
    if role not in ROLES:
        hint = " (ShareGPT's names are not read; write role and content)" if "from" in value else ""
        raise _Unusable(f"{name} has the role {_shown(role)}; roles are {', '.join(ROLES)}{hint}")
    if value.get("tool_calls") or value.get("function_call"):
        raise _Unusable(f"{name} calls a tool, which cannot be trained on yet; remove the row")
    if "content" not in value:
        raise _Unusable(f"{name} ({role}) has no content")
    content = _text(value["content"], f"the content of {name} ({role})")
    if role != "assistant" and not content.strip():
        raise _Unusable(f"the content of {name} ({role}) is empty")
    return Message(cast(Role, role), content)


def _as_object(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise _Unusable(f"the row is {_kind(value)}; it must be an object")
    return value


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise _Unusable(f"{name} is {_kind(value)}; it must be text")
    return value


_KINDS = {
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "an object",
}


def _kind(value: object) -> str:
    return "null" if value is None else _KINDS.get(type(value), type(value).__name__)


def _shown(value: object) -> str:
    if value is None:
        return "none"
    text = repr(value) if isinstance(value, str) else _kind(value)
    return text if len(text) <= 40 else text[:40] + " …"
