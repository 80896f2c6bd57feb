"""`spec.dataset`: the rows a model is trained, validated and tested on, and what of them counts as unchanged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from finetune_api.base import ApiModel, CelRule
from finetune_api.spec.data_source import DataSource
from finetune_api.spec.preparation import Preparation


class LossOn(StrEnum):
    """Which tokens are learned."""

    ASSISTANT = "Assistant"
    ALL = "All"


class Validation(ApiModel):
    """Rows that are not trained on: they say when to stop and which checkpoint is best."""

    cel_rules: ClassVar[tuple[CelRule, ...]] = (
        CelRule(
            "has(self.fraction) != has(self.sources)",
            "set exactly one of validation.fraction and validation.sources: fraction splits the training rows, sources brings rows of its own",
        ),
        CelRule(
            "!has(self.sources) || self.sources.all(source, source.weight == 1.0)",
            "weight says how often training rows are seen and has no place in validation.sources: remove weight",
        ),
    )

    fraction: Annotated[float, Field(gt=0, le=0.5)] | None = Field(
        default=None,
        description="fraction of the training rows that is kept apart, chosen by training.seed; instead of sources. Immutable.",
    )
    sources: Annotated[list[DataSource], Field(min_length=1, max_length=16)] | None = Field(
        default=None,
        description="sources of validation rows, instead of fraction. Immutable but for references.",
    )


# What of a source makes its rows, with CEL for "nothing" of the same type; the rest is how it is reached.
_MAKES_ROWS = {
    "source": "''",
    "inline": "[]",
    "format": "''",
    "columns": None,
    "split": "''",
    "subset": "''",
    "revision": "''",
    "weight": "1.0",
    "maxRows": "0",
}
_IS_REFERENCE = {"store": None, "tokenSecretRef": None}


def _same_in_all(new: str, old: str, fields: Mapping[str, str | None]) -> str:
    """CEL: whether two lists of sources have the same `fields`, source by source.

    The names are short, because the rule stands twelve times in the definition, which must fit into an annotation.
    """
    return " && ".join(
        f"{new}.map(s, {_value_or(field, nothing)}) == {old}.map(s, {_value_or(field, nothing)})"
        for field, nothing in fields.items()
    )


def _value_or(field: str, nothing: str | None) -> str:
    if nothing is None:
        return f"has(s.{field}) ? [s.{field}] : []"
    return f"has(s.{field}) ? s.{field} : {nothing}"


def _same_if_any(path: str, fields: Mapping[str, str | None]) -> str:
    """CEL: the same for lists at the end of a path of which nothing need be there."""
    new, old = f"self{path}", f"oldSelf{path}"
    return f"has({new}) == has({old}) && (!has({new}) || ({_same_in_all(new, old, fields)}))"


def _same_validation(prefix: str, fields: Mapping[str, str | None]) -> str:
    path = f"{prefix}.validation"
    new, old = f"self{path}", f"oldSelf{path}"
    return f"has({new}) == has({old}) && (!has({new}) || ({_same_if_any(path + '.sources', fields)}))"


def _same_fraction(path: str) -> str:
    new, old = f"self{path}", f"oldSelf{path}"
    return (
        f"(!has({new}) || !has({old}) || has({new}.fraction) == has({old}.fraction) && "
        f"(!has({new}.fraction) || {new}.fraction == {old}.fraction))"
    )


# References of the sources may change while nothing runs: field → CEL at the resource's root, where the phase is seen.
SAME_REFERENCES = (
    (
        "store and tokenSecretRef of dataset.train",
        _same_in_all("self.spec.dataset.train", "oldSelf.spec.dataset.train", _IS_REFERENCE),
    ),
    (
        "store and tokenSecretRef of dataset.validation.sources",
        _same_validation(".spec.dataset", _IS_REFERENCE),
    ),
    ("store and tokenSecretRef of dataset.test", _same_if_any(".spec.dataset.test", _IS_REFERENCE)),
)


class Dataset(ApiModel):
    """The data the model is tuned on."""

    cel_rules: ClassVar[tuple[CelRule, ...]] = (
        CelRule(
            "!has(self.test) || self.test.all(source, source.weight == 1.0)",
            "weight says how often training rows are seen and has no place in dataset.test: remove weight",
        ),
        CelRule(
            "!has(self.preparation.balance) || self.train.all(source, source.format in ['Auto', 'Classification'])",
            "preparation.balance evens out classes, so the format of every dataset.train source must be Classification or Auto: "
            "change format or remove balance",
        ),
    )
    immutable_fields: ClassVar[tuple[str, ...]] = (
        "train",
        "validation",
        "test",
        "preparation",
        "system_prompt",
        "chat_template",
        "loss_on",
    )
    # The references of the sources may change: see SAME_REFERENCES.
    unchanged_rules: ClassVar[Mapping[str, Callable[[str], str]]] = {
        "train": lambda block: _same_in_all(f"self{block}.train", f"oldSelf{block}.train", _MAKES_ROWS),
        "validation": lambda block: (
            f"{_same_fraction(f'{block}.validation')} && {_same_validation(block, _MAKES_ROWS)}"
        ),
        "test": lambda block: _same_if_any(f"{block}.test", _MAKES_ROWS),
    }

    train: Annotated[list[DataSource], Field(min_length=1, max_length=32)] = Field(
        description="train lists the sources of training rows; their rows are put together. Immutable but for references."
    )
    validation: Validation | None = Field(
        default=None,
        description="validation rows are not trained on: their loss is reported, stops the run early where training.earlyStopping says so, "
        "and chooses the checkpoint of output.export: Best. Default: none. Immutable but for references.",
    )
    test: Annotated[list[DataSource], Field(min_length=1, max_length=16)] | None = Field(
        default=None,
        description="test lists the sources of rows that only evaluation sees. Default: none; evaluation then takes the validation rows. "
        "Immutable but for references.",
    )
    preparation: Preparation = Field(
        default=Preparation(),
        description="preparation says how rows are cleaned, checked and cut before training. Immutable.",
    )
    system_prompt: Annotated[str, StringConstraints(min_length=1, max_length=16_384)] | None = Field(
        default=None,
        description="systemPrompt is put before every row that has no system message of its own. Default: none. Immutable.",
    )
    chat_template: Annotated[str, StringConstraints(min_length=1, max_length=65_536)] | None = Field(
        default=None,
        description="chatTemplate is a Jinja chat template that replaces the model's own, for training and in the exported model. Default: the model's. Immutable.",
    )
    loss_on: LossOn = Field(
        default=LossOn.ASSISTANT,
        description="lossOn: Assistant learns the assistant's tokens and their end-of-turn token only; All learns every token. Default: Assistant. Immutable.",
    )
