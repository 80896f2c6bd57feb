"""The CEL by which edits are refused: what never changes, and what changes only while nothing made from it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

from pydantic import Field

from finetune_api.base import OPTIONAL, UNWRITTEN, ApiModel
from finetune_api.generate.changes import (
    Changeability,
    Unchanged,
    changeability,
    immutability_rule,
    immutable_fields,
    settled_fields,
    settled_rule,
)

SETTLED = (
    "!has(oldSelf.status) || !has(oldSelf.status.phase) || "
    "oldSelf.status.phase in ['Pending', 'Queued', 'Suspended', 'Failed']"
)


class Adapter(ApiModel):
    rank: int = 16
    alpha: float = 32
    modules: list[str] = Field(default=["auto"])
    whole: list[str] | None = None


class Saving(ApiModel):
    every: int = Field(default=100, json_schema_extra=UNWRITTEN)
    keep: int = 2


class Place(ApiModel):
    settled_fields: ClassVar[tuple[str, ...]] = ("region",)
    immutable_fields: ClassVar[tuple[str, ...]] = ("uri",)
    uri: str
    region: str | None = None


class Spec(ApiModel):
    immutable_fields: ClassVar[tuple[str, ...]] = ("source", "seed", "rows", "adapter", "sources")
    settled_fields: ClassVar[tuple[str, ...]] = ("saving",)
    unchanged_rules: ClassVar[Mapping[str, Callable[[str], str]]] = {
        "sources": lambda block: f"self{block}.sources.size() == oldSelf{block}.sources.size()"
    }
    source: str
    seed: int = 42
    rows: int = Field(default=16, json_schema_extra=UNWRITTEN)
    adapter: Adapter = Field(default=Adapter(), json_schema_extra=UNWRITTEN)
    sources: list[str] = Field(default=[])
    saving: Saving = Saving()
    place: Place = Field(json_schema_extra=OPTIONAL)
    suspend: bool = False


def test_each_kind_of_field_is_compared_so_that_coming_and_going_count() -> None:
    fields = {each.field: each.is_same for each in immutable_fields(Spec)}

    assert fields["source"] == "self.spec.source == oldSelf.spec.source"
    assert fields["seed"] == (
        "has(self.spec.seed) == has(oldSelf.spec.seed) && "
        "(!has(self.spec.seed) || self.spec.seed == oldSelf.spec.seed)"
    )
    assert fields["rows"] == (
        "(has(self.spec.rows) ? self.spec.rows : 16) == (has(oldSelf.spec.rows) ? oldSelf.spec.rows : 16)"
    )
    assert fields["sources"] == "self.spec.sources.size() == oldSelf.spec.sources.size()"


def test_a_block_that_is_not_written_equals_one_that_says_its_defaults() -> None:
    (rule,) = [each.is_same for each in immutable_fields(Spec) if each.field == "adapter"]
    new, old = (
        f"(!has({root}.rank) || {root}.rank == 16) && (!has({root}.alpha) || {root}.alpha == 32.0) && "
        f'(!has({root}.modules) || {root}.modules == ["auto"]) && !has({root}.whole)'
        for root in ("self.spec.adapter", "oldSelf.spec.adapter")
    )

    assert rule == (
        "(has(self.spec.adapter) && has(oldSelf.spec.adapter) ? self.spec.adapter == oldSelf.spec.adapter : "
        f"(!has(self.spec.adapter) || {new}) && (!has(oldSelf.spec.adapter) || {old}))"
    )


def test_fields_of_inner_blocks_are_compared_unless_the_block_comes_or_goes() -> None:
    assert settled_fields(Spec) == (
        Unchanged(
            "saving",
            "(has(self.spec.saving.every) ? self.spec.saving.every : 100) == "
            "(has(oldSelf.spec.saving.every) ? oldSelf.spec.saving.every : 100) && "
            "has(self.spec.saving.keep) == has(oldSelf.spec.saving.keep) && "
            "(!has(self.spec.saving.keep) || self.spec.saving.keep == oldSelf.spec.saving.keep)",
        ),
        Unchanged(
            "place.region",
            "!has(self.spec.place) || !has(oldSelf.spec.place) || "
            "(has(self.spec.place.region) == has(oldSelf.spec.place.region) && "
            "(!has(self.spec.place.region) || self.spec.place.region == oldSelf.spec.place.region))",
        ),
    )


class Rows(ApiModel):
    unchanged_rules: ClassVar[Mapping[str, Callable[[str], str]]] = {
        "longest": lambda block: f"self{block}.longest <= oldSelf{block}.longest"
    }
    longest: int | None = None
    share: float = Field(default=0.5, json_schema_extra=UNWRITTEN)


class Data(ApiModel):
    immutable_fields: ClassVar[tuple[str, ...]] = ("rows",)
    rows: Rows = Rows()


def test_a_field_of_a_compared_block_may_say_itself_what_counts_as_unchanged() -> None:
    (rule,) = immutable_fields(Data)

    assert rule == Unchanged(
        "rows",
        "self.spec.rows.longest <= oldSelf.spec.rows.longest && "
        "(has(self.spec.rows.share) ? self.spec.rows.share : 0.5) == "
        "(has(oldSelf.spec.rows.share) ? oldSelf.spec.rows.share : 0.5)",
    )


def test_one_rule_asks_for_a_settled_phase_or_that_every_field_is_the_same() -> None:
    rule = settled_rule([Unchanged("a", "A"), Unchanged("b", "B")]).rule

    assert rule.endswith(f" || {SETTLED} || ((A) && (B))")
    assert SETTLED not in immutability_rule([Unchanged("a", "A")]).rule


def test_messages_name_every_changed_field_by_its_path_and_the_way_out() -> None:
    fields = [Unchanged("place.uri", "A"), Unchanged("seed", "B")]

    assert immutability_rule(fields).message_expression == (
        "((A ? '' : ', place.uri is immutable') + (B ? '' : ', seed is immutable')).substring(2) + "
        "': it defines the run; create another FineTuneJob, or delete and re-apply this one'"
    )
    assert settled_rule(fields).message_expression == (
        "((A ? '' : ', place.uri') + (B ? '' : ', seed')).substring(2) + "
        "' can be changed only while the job is Pending, Queued, Suspended or Failed: "
        "set suspend: true, wait for phase Suspended, then change it'"
    )


def test_each_field_is_listed_by_when_it_can_be_changed() -> None:
    assert changeability(Spec) == Changeability(
        always=("suspend",),
        settled=("saving", "place.region"),
        never=("source", "seed", "rows", "adapter", "sources", "place.uri"),
    )
