"""Which columns a format reads, and how they are called where the job does not say otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from finetune_api.spec import DataFormat

# What a column is for: the fields of `dataset.train[].columns`, and `tools`, which cannot be renamed.
Purpose = Literal[
    "messages",
    "tools",
    "system",
    "prompt",
    "completion",
    "instruction",
    "input",
    "output",
    "history",
    "target",
    "text",
    "label",
]


@dataclass(frozen=True, slots=True)
class FormatColumns:
    """What a format reads: for each purpose the usual names, the likeliest first."""

    required: Mapping[Purpose, tuple[str, ...]]
    optional: Mapping[Purpose, tuple[str, ...]]

    def usual_names(self, purpose: Purpose) -> tuple[str, ...]:
        """How a column of this purpose is usually called."""
        return self.required.get(purpose) or self.optional[purpose]

    @property
    def purposes(self) -> tuple[Purpose, ...]:
        """Everything the format reads."""
        return (*self.required, *self.optional)


_SYSTEM: dict[Purpose, tuple[str, ...]] = {"system": ("system",)}
_CHAT: dict[Purpose, tuple[str, ...]] = {**_SYSTEM, "tools": ("tools", "functions")}

# Dialogue has turns in a list or in one text, so it is there twice; the list is looked for first.
DIALOGUE_LIST = FormatColumns(
    {"messages": ("dialogue_sequence", "conversations", "conversation", "dialogue")}, _CHAT
)
DIALOGUE_TEXT = FormatColumns({"text": ("text",)}, _SYSTEM)
COLUMNS_OF_FORMAT: Mapping[DataFormat, tuple[FormatColumns, ...]] = {
    DataFormat.MESSAGES: (FormatColumns({"messages": ("messages",)}, _CHAT),),
    DataFormat.SHARE_GPT: (
        FormatColumns({"messages": ("conversations", "conversation", "messages")}, _CHAT),
    ),
    DataFormat.DIALOGUE: (DIALOGUE_LIST, DIALOGUE_TEXT),
    DataFormat.PROMPT_COMPLETION: (
        FormatColumns({"prompt": ("prompt",), "completion": ("completion",)}, _CHAT),
    ),
    DataFormat.ALPACA: (
        FormatColumns(
            {"instruction": ("instruction",), "output": ("output",)},
            {"input": ("input",), "history": ("history",), **_SYSTEM},
        ),
    ),
    DataFormat.INPUT_TARGET: (
        FormatColumns(
            {
                "input": ("input_text", "question", "query"),
                "target": ("target_text", "answer", "response"),
            },
            _SYSTEM,
        ),
    ),
    DataFormat.CLASSIFICATION: (FormatColumns({"text": ("text",), "label": ("label",)}, {}),),
    DataFormat.TEXT: (FormatColumns({"text": ("text",)}, {}),),
}


@dataclass(frozen=True, slots=True)
class Columns:
    """The names of a source's columns, by purpose; None where the format reads no such column."""

    messages: str | None = None
    tools: str | None = None
    system: str | None = None
    prompt: str | None = None
    completion: str | None = None
    instruction: str | None = None
    input: str | None = None
    output: str | None = None
    history: str | None = None
    target: str | None = None
    text: str | None = None
    label: str | None = None


@dataclass(frozen=True, slots=True)
class RowFormat:
    """How the rows of one source are read, and why."""

    format: DataFormat
    columns: Columns
    explanation: str


def resolve_columns(
    reads: FormatColumns, named: Mapping[Purpose, str], rows: Sequence[Mapping[str, object]]
) -> Columns:
    """Name every column: as the job says, else by the usual name that most rows have."""
    return Columns(
        **{
            purpose: named.get(purpose) or _commonest(reads.usual_names(purpose), rows)
            for purpose in reads.purposes
        }
    )


def _commonest(usual: Sequence[str], rows: Sequence[Mapping[str, object]]) -> str:
    # Of equally common names max takes the first.
    return max(usual, key=lambda name: sum(name in row for row in rows))
