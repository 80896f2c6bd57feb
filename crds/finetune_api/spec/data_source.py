"""One source of rows: where they stand, what format they have, and which columns are read."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, JsonValue, StringConstraints, WithJsonSchema

from finetune_api.base import MESSAGE_KEY, ApiModel, CelRule
from finetune_api.spec.model import Revision
from finetune_api.spec.references import TokenSecretRef
from finetune_api.spec.store import Store
from finetune_api.spec.uris import DATA_URI_PATTERN, HUB_WORD, cel_is_hub, cel_names_configuration

InlineRow = Annotated[
    dict[str, JsonValue],
    WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True, "maxProperties": 16}),
]
ColumnName = Annotated[str, StringConstraints(min_length=1, max_length=128)]
HubWord = Annotated[str, StringConstraints(pattern=rf"^{HUB_WORD}$", max_length=128)]


class DataFormat(StrEnum):
    """The shape of a row."""

    AUTO = "Auto"
    MESSAGES = "Messages"
    SHARE_GPT = "ShareGPT"
    ALPACA = "Alpaca"
    PROMPT_COMPLETION = "PromptCompletion"
    INPUT_TARGET = "InputTarget"
    DIALOGUE = "Dialogue"
    TEXT = "Text"
    CLASSIFICATION = "Classification"


class ColumnMapping(ApiModel):
    """Names of a source's columns, where they are not the usual ones of its format."""

    input: ColumnName | None = Field(
        default=None,
        description="input is the column with the user's text, of InputTarget and Alpaca. Default: input_text, question or query; input for Alpaca.",
    )
    target: ColumnName | None = Field(
        default=None,
        description="target is the column with the answer, of InputTarget. Default: target_text, answer or response.",
    )
    instruction: ColumnName | None = Field(
        default=None,
        description="instruction is the column with the task, of Alpaca. Default: instruction.",
    )
    output: ColumnName | None = Field(
        default=None, description="output is the column with the answer, of Alpaca. Default: output."
    )
    history: ColumnName | None = Field(
        default=None,
        description="history is the column with earlier turns, a list of [question, answer], of Alpaca. Default: history.",
    )
    prompt: ColumnName | None = Field(
        default=None,
        description="prompt is the column with the text that is given, of PromptCompletion. Default: prompt.",
    )
    completion: ColumnName | None = Field(
        default=None,
        description="completion is the column with the text that is learned, of PromptCompletion. Default: completion.",
    )
    messages: ColumnName | None = Field(
        default=None,
        description="messages is the column with the list of turns, of Messages, ShareGPT and Dialogue. "
        "Default: messages; conversations for ShareGPT; dialogue_sequence or conversations for Dialogue.",
    )
    system: ColumnName | None = Field(
        default=None,
        description="system is the column with the row's own system message. Default: system, where a row has it.",
    )
    text: ColumnName | None = Field(
        default=None,
        description="text is the column with the text, of Text, Classification and Dialogue. Default: text.",
    )
    label: ColumnName | None = Field(
        default=None,
        description="label is the column with the class, of Classification. Default: label.",
    )


def _column_rule(column: str, *formats: str) -> CelRule:
    named = ", ".join(f"'{name}'" for name in ("Auto", *formats))
    listed = " and ".join(formats)
    return CelRule(
        f"!has(self.columns) || !has(self.columns.{column}) || self.format in [{named}]",
        f"columns.{column} is read by format {listed} only: set that format or remove columns.{column}",
    )


class DataSource(ApiModel):
    """One source of rows: `source` or `inline`."""

    cel_rules: ClassVar[tuple[CelRule, ...]] = (
        CelRule(
            "has(self.source) != has(self.inline)",
            "set exactly one of dataset source and inline: source for rows in a file, inline for a handful of rows in this object",
        ),
        CelRule(
            f"!(has(self.split) || has(self.subset) || has(self.revision)) || (has(self.source) && {cel_is_hub('self.source')})",
            "split, subset and revision belong to a data set of a hub, but source is not hf:// or modelscope://: remove them",
        ),
        CelRule(
            f"!has(self.subset) || !has(self.source) || !{cel_names_configuration('self.source')}",
            "subset and the part of source behind the colon both name the configuration of a hub's data set: remove one of them",
        ),
        CelRule(
            f"!has(self.tokenSecretRef) || (has(self.source) && {cel_is_hub('self.source')})",
            "tokenSecretRef is for a hub, but source is not hf:// or modelscope://: remove tokenSecretRef",
        ),
        CelRule(
            "!has(self.store) || (has(self.source) && self.source.startsWith('s3://'))",
            "store is for an s3:// source, but source is none: remove store",
        ),
        _column_rule("input", "InputTarget", "Alpaca"),
        _column_rule("target", "InputTarget"),
        _column_rule("instruction", "Alpaca"),
        _column_rule("output", "Alpaca"),
        _column_rule("history", "Alpaca"),
        _column_rule("prompt", "PromptCompletion"),
        _column_rule("completion", "PromptCompletion"),
        _column_rule("messages", "Messages", "ShareGPT", "Dialogue"),
        _column_rule(
            "system", "Messages", "ShareGPT", "Alpaca", "PromptCompletion", "InputTarget", "Dialogue"
        ),
        _column_rule("text", "Text", "Classification", "Dialogue"),
        _column_rule("label", "Classification"),
    )

    source: Annotated[str, StringConstraints(pattern=DATA_URI_PATTERN, max_length=1024)] | None = Field(
        default=None,
        json_schema_extra={
            MESSAGE_KEY: "dataset source must be s3://bucket/key, hf://org/name, modelscope://org/name, pvc://claim/path or "
            "configMap://name/key, such as s3://data/support.jsonl or hf://org/name:zh"
        },
        description="source of rows: a file, s3://bucket/key, pvc://claim/path or configMap://name/key; a folder, s3://bucket/prefix or "
        "pvc://claim/path; or a data set of a hub, hf://org/name or modelscope://org/name, where :zh behind the name takes configuration "
        "zh. Files that are read: .jsonl, .json, .csv, .tsv, .parquet, .arrow, .txt, each also .gz or .zst; all of them of a folder. Claims "
        "and ConfigMaps are of the job's namespace. Instead of inline.",
    )
    inline: Annotated[list[InlineRow], Field(min_length=1, max_length=256)] | None = Field(
        default=None,
        description="inline holds the rows themselves, at most 256, instead of source: for first steps and tests.",
    )
    format: DataFormat = Field(
        default=DataFormat.AUTO,
        description="format of the rows: Messages ({messages: [{role, content}]}), ShareGPT ({conversations: [{from, value}]}), Alpaca "
        "({instruction, input, output}), PromptCompletion ({prompt, completion}), InputTarget ({input_text, target_text} and the like), "
        "Dialogue ({dialogue_sequence: [{role, text}]}, or text with turns such as `用户:…` and `助手:…`), Text ({text}, learned whole), Classification ({text, label}), "
        "or Auto: recognised from the first rows, with an explanation in the report. Default: Auto.",
    )
    columns: ColumnMapping | None = Field(
        default=None,
        description="columns names the columns that are not called as the format expects. Default: none.",
    )
    split: HubWord | None = Field(
        default=None, description="split of a hub's data set, such as train. Default: train."
    )
    subset: HubWord | None = Field(
        default=None,
        description="subset (configuration) of a hub's data set, unless source names it. Default: the only one.",
    )
    revision: Revision | None = Field(
        default=None,
        description="revision of a hub's data set: a branch, a tag or, best, a commit. Default: the hub's main branch.",
    )
    token_secret_ref: TokenSecretRef | None = Field(
        default=None,
        description="tokenSecretRef names the Secret with the hub's token, for gated and private data sets. Default: no token.",
    )
    weight: Annotated[float, Field(gt=0, le=100)] = Field(
        default=1.0,
        description="weight: how often each row is seen in an epoch, on average: 2 twice, 0.5 every other time. Training sources only. Default: 1.",
    )
    max_rows: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = Field(
        default=None, description="maxRows takes only the first rows: for a first small run. Default: all."
    )
    store: Store | None = Field(default=None, description="store of an s3:// source. Default: output.store.")
