"""The CEL by which edits are refused: what never changes, and what changes only while nothing made from it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from finetune_api.base import OPTIONAL, UNWRITTEN, ApiModel
from finetune_api.generate.changes import Changeability, changeability, immutability_rules, settled_rules

QUIET = (
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
    unchanged_rules: ClassVar[Mapping[str, str]] = {
        "sources": "self.sources.size() == oldSelf.sources.size()"
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
    rules = [rule.rule for rule in immutability_rules(Spec, "spec")]

    assert rules[:3] == [
        "self.source == oldSelf.source",
        "has(self.seed) == has(oldSelf.seed) && (!has(self.seed) || self.seed == oldSelf.seed)",
        "(has(self.rows) ? self.rows : 16) == (has(oldSelf.rows) ? oldSelf.rows : 16)",
    ]
    assert rules[4] == "self.sources.size() == oldSelf.sources.size()"


def test_a_block_that_is_not_written_equals_one_that_says_its_defaults() -> None:
    (rule,) = [rule.rule for rule in immutability_rules(Spec, "spec") if "adapter" in rule.rule]
    new, old = (
        f"(!has({root}.rank) || {root}.rank == 16) && (!has({root}.alpha) || {root}.alpha == 32.0) && "
        f'(!has({root}.modules) || {root}.modules == ["auto"]) && !has({root}.whole)'
        for root in ("self.adapter", "oldSelf.adapter")
    )

    assert rule == (
        "(has(self.adapter) && has(oldSelf.adapter) ? self.adapter == oldSelf.adapter : "
        f"(!has(self.adapter) || {new}) && (!has(oldSelf.adapter) || {old}))"
    )


def test_settled_fields_are_compared_at_the_root_which_sees_the_phase() -> None:
    assert [rule.rule for rule in settled_rules(Spec)] == [
        f"{QUIET} || (has(self.spec.saving.every) ? self.spec.saving.every : 100) == "
        "(has(oldSelf.spec.saving.every) ? oldSelf.spec.saving.every : 100) && "
        "has(self.spec.saving.keep) == has(oldSelf.spec.saving.keep) && "
        "(!has(self.spec.saving.keep) || self.spec.saving.keep == oldSelf.spec.saving.keep)",
        f"{QUIET} || !has(self.spec.place) || !has(oldSelf.spec.place) || "
        "(has(self.spec.place.region) == has(oldSelf.spec.place.region) && "
        "(!has(self.spec.place.region) || self.spec.place.region == oldSelf.spec.place.region))",
    ]


def test_messages_name_the_field_by_its_path_and_the_way_out() -> None:
    (immutable,) = immutability_rules(Place, "spec.place")

    assert immutable.message == (
        "place.uri is immutable: it defines the run; create another FineTuneJob, or delete and re-apply this one"
    )
    assert settled_rules(Spec)[1].message == (
        "place.region can be changed only while the job is Pending, Queued, Suspended or Failed: "
        "set suspend: true, wait for phase Suspended, then change it"
    )


def test_each_field_is_listed_by_when_it_can_be_changed() -> None:
    assert changeability(Spec) == Changeability(
        always=("suspend",),
        settled=("saving", "place.region"),
        never=("source", "seed", "rows", "adapter", "sources", "place.uri"),
    )
