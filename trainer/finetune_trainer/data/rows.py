"""The words of data preparation: where a row stands, what it says, the training example it becomes, why it may not.

Everything here is small, frozen and picklable: rows travel between processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

from pydantic import JsonValue

Role = Literal["system", "user", "assistant", "tool"]
JsonObject = Mapping[str, JsonValue]


class Split(StrEnum):
    """What a row is used for."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class DropReason(StrEnum):
    """Why a row is left out."""

    INVALID = "Invalid"
    TOO_SHORT = "TooShort"
    TOO_LONG = "TooLong"
    NOISE = "Noise"
    REGEX = "Regex"
    NOTHING_TO_LEARN = "NothingToLearn"
    DUPLICATE = "Duplicate"
    NEAR_DUPLICATE = "NearDuplicate"
    LEAKAGE = "Leakage"
    BALANCE = "Balance"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row stands: a file as the user knows it, and the line or row of it, counted from 1."""

    file: str
    unit: Literal["line", "row"]
    number: int

    def __str__(self) -> str:
        return f"{self.file} {self.unit} {self.number}"


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row as it was written: any JSON value."""

    place: Place
    value: object


@dataclass(frozen=True, slots=True)
class RowProblem:
    """Why a row cannot be used. The reason quotes no text of the row beyond names of columns, roles and labels."""

    place: Place
    reason: str
    column: str | None = None

    @property
    def sentence(self) -> str:
        """The reason with where it stands."""
        return f"{self.place}: {self.reason}"


# --- examples --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a function by the assistant, as OpenAI's format has it."""

    name: str
    arguments: JsonObject
    call_id: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `thinking` is the assistant's reasoning, which a template puts before its answer."""

    role: Role
    content: str
    thinking: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    # OpenAI's `weight: 0` on an assistant message: it is read, and not learned.
    is_learned: bool = True


@dataclass(frozen=True, slots=True)
class Conversation:
    """An example that the chat template renders."""

    place: Place
    messages: tuple[Message, ...]
    tools: tuple[JsonObject, ...] = ()
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Continuation:
    """An example without a template: `given` is read, `learned` is what follows it. Plain text is all learned."""

    place: Place
    given: str
    learned: str
    label: str | None = None


@dataclass(frozen=True, slots=True)
class LabelledText:
    """An example of task SequenceClassification."""

    place: Place
    text: str
    label: str


Example = Conversation | Continuation | LabelledText


def texts_of(example: Example) -> Iterator[str]:
    """Everything in an example that people wrote, in order; strings inside tool calls too."""
    match example:
        case Conversation():
            for message in example.messages:
                yield message.content
                if message.thinking:
                    yield message.thinking
                for call in message.tool_calls:
                    yield from _strings(call.arguments)
        case Continuation():
            yield example.given
            yield example.learned
        case LabelledText():
            yield example.text


def replace_texts(example: Example, change: Callable[[str], str]) -> Example:
    """The example with every text changed; labels, roles, names and tools' descriptions stay."""
    match example:
        case Conversation():
            messages = tuple(_changed_message(message, change) for message in example.messages)
            return replace(example, messages=messages)
        case Continuation():
            return replace(example, given=change(example.given), learned=change(example.learned))
        case LabelledText():
            return replace(example, text=change(example.text))


def _changed_message(message: Message, change: Callable[[str], str]) -> Message:
    return replace(
        message,
        content=change(message.content),
        thinking=change(message.thinking) if message.thinking else message.thinking,
        tool_calls=tuple(
            replace(call, arguments=change_json(call.arguments, change)) for call in message.tool_calls
        ),
    )


def change_json(content: JsonObject, change: Callable[[str], str]) -> JsonObject:
    """The object with every string among its values changed; its keys stay."""
    return {key: _changed(value, change) for key, value in content.items()}


def _changed(value: JsonValue, change: Callable[[str], str]) -> JsonValue:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_changed(item, change) for item in value]
    if isinstance(value, dict):
        return {key: _changed(item, change) for key, item in value.items()}
    return value


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
