"""`spec.dataset`: training rows, their format, and how they are prepared before a GPU is asked for."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, JsonValue, StringConstraints, WithJsonSchema

from finetune_api.base import ApiModel, CelRule
from finetune_api.spec.store import Store

DATA_URI_PATTERN = r"^(s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^/\s]+)+|configMap://[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[-._a-zA-Z0-9]+)$"
InlineRow = Annotated[
    dict[str, JsonValue],
    WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True, "maxProperties": 16}),
]
ColumnName = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class DataFormat(StrEnum):
    """The shape of a row."""

    AUTO = "Auto"
    MESSAGES = "Messages"
    INPUT_TARGET = "InputTarget"


class LossOn(StrEnum):
    """Which tokens are learned."""

    ASSISTANT = "Assistant"
    ALL = "All"


class Overlong(StrEnum):
    """What happens to a row that is longer than `maxLength`."""

    DROP = "Drop"
    TRUNCATE = "Truncate"


class InvalidRows(StrEnum):
    """What happens when a row cannot be used."""

    FAIL = "Fail"
    DROP = "Drop"


class ColumnMapping(ApiModel):
    """Names of the columns of an InputTarget source, where they are not the usual ones."""

    input: ColumnName = Field(
        description="input is the column with the user's text. Default names tried: input_text, question, query."
    )
    target: ColumnName = Field(
        description="target is the column with the answer. Default names tried: target_text, answer, response."
    )


class DataSource(ApiModel):
    """One source of rows: `source` or `inline`."""

    cel_rules: ClassVar[tuple[CelRule, ...]] = (
        CelRule(
            "has(self.source) != has(self.inline)",
            "set exactly one of dataset source and inline: source for rows in a file, inline for a handful of rows in this object",
        ),
    )

    source: Annotated[str, StringConstraints(pattern=DATA_URI_PATTERN, max_length=1024)] | None = Field(
        default=None,
        json_schema_extra={
            "x-message": "dataset source must be s3://bucket/key or configMap://name/key, such as s3://data/support.jsonl"
        },
        description="source is s3://bucket/key of a .jsonl or .json file (.gz accepted), or configMap://name/key in the job's namespace.",
    )
    inline: Annotated[list[InlineRow], Field(min_length=1, max_length=256)] | None = Field(
        default=None, description="inline holds the rows themselves, at most 256: for first steps and tests."
    )
    format: DataFormat = Field(
        default=DataFormat.AUTO,
        description="format of the rows: Messages ({messages: [{role, content}]}), InputTarget ({input_text, target_text} and the like), "
        "or Auto: recognised from the first row, with an explanation in the report. Default: Auto.",
    )
    columns: ColumnMapping | None = Field(
        default=None, description="columns maps other column names of an InputTarget source."
    )
    max_rows: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = Field(
        default=None, description="maxRows takes only the first rows: for a first small run. Default: all."
    )
    store: Store | None = Field(default=None, description="store of an s3:// source. Default: output.store.")


class Preparation(ApiModel):
    """What is done to the rows on a CPU pod before training."""

    max_length: Annotated[int, Field(ge=8, le=1_048_576)] = Field(
        default=1024,
        description="maxLength is the longest row in tokens; it must not exceed the model's context. Default: 1024.",
    )
    overlong: Overlong = Field(
        default=Overlong.DROP,
        description="overlong: Drop leaves longer rows out, Truncate cuts them at maxLength. Both are counted in the report. Default: Drop.",
    )
    invalid_rows: InvalidRows = Field(
        default=InvalidRows.FAIL,
        description="invalidRows: Fail ends the job at the first row that cannot be used, naming it; Drop leaves such rows out and counts them. Default: Fail.",
    )


class Dataset(ApiModel):
    """The data the model is tuned on."""

    train: Annotated[list[DataSource], Field(min_length=1, max_length=32)] = Field(
        description="train lists the sources of training rows; their rows are put together. Immutable."
    )
    preparation: Preparation = Field(
        default=Preparation(),
        description="preparation says how rows are checked and cut before training. Immutable.",
    )
    system_prompt: Annotated[str, StringConstraints(min_length=1, max_length=16_384)] | None = Field(
        default=None,
        description="systemPrompt is put before every row that has no system message of its own. Immutable.",
    )
    chat_template: Annotated[str, StringConstraints(min_length=1, max_length=65_536)] | None = Field(
        default=None,
        description="chatTemplate is a Jinja chat template that replaces the model's own, for training and in the exported model. Immutable.",
    )
    loss_on: LossOn = Field(
        default=LossOn.ASSISTANT,
        description="lossOn: Assistant learns the assistant's tokens and their end-of-turn token only; All learns every token. Default: Assistant. Immutable.",
    )
