"""Which edits the API server refuses: of what never changes, and of what changes only while nothing made from it runs.

All of it is two rules on the resource's root. API servers evaluate every rule on every write, and what the operator
writes is the status: there one look at the status must be enough. A rule for each field, on the field's own block, made
a status write five times as expensive as all other rules together.

A plain `self.x == oldSelf.x` is skipped when the field comes or goes, so every rule stands on the parent and asks with
`has` first. (`self.?x == oldSelf.?x` would be shorter, but the API server cannot estimate what it costs and refuses
it.) A default that is not written into objects counts as if it stood there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pydantic.fields import FieldInfo

from finetune_api.base import OPTIONAL_KEY, UNWRITTEN_KEY, ApiModel, CelRule
from finetune_api.status import Phase

# A new attempt is made in all of these before anything runs again.
_SETTLED_PHASES = (Phase.PENDING, Phase.QUEUED, Phase.SUSPENDED, Phase.FAILED)
_IS_SETTLED = "!has(oldSelf.status) || !has(oldSelf.status.phase) || oldSelf.status.phase in [{}]".format(
    ", ".join(f"'{phase}'" for phase in _SETTLED_PHASES)
)


def _is_same_value(path: str) -> str:
    """CEL: whether an optional field is as before, be it there or not."""
    new, old = f"self.{path}", f"oldSelf.{path}"
    return f"has({new}) == has({old}) && (!has({new}) || {new} == {old})"


def _is_status_write() -> str:
    """CEL at the root: whether the status changes, and so nothing else does.

    A write of the status keeps the stored spec, every other write the stored status: the API server sees to it.
    """
    # One of these changes on nearly every write of the status; each look costs, so there are no more.
    phase, message = _is_same_value("status.phase"), _is_same_value("status.message")
    reported = _is_same_value("status.progress.lastUpdateTime")
    is_report = f"has(self.status.progress) && (!has(oldSelf.status.progress) || !({reported}))"
    return f"has(self.status) && (!has(oldSelf.status) || !({phase}) || !({message}) || {is_report})"


@dataclass(frozen=True)
class Changeability:
    """Fields of the spec by when they can be changed; a block stands for all of it."""

    always: tuple[str, ...] = ()
    settled: tuple[str, ...] = ()
    never: tuple[str, ...] = ()

    def __add__(self, other: Changeability) -> Changeability:
        return Changeability(
            self.always + other.always, self.settled + other.settled, self.never + other.never
        )


def changeability(model: type[ApiModel], path: str = "") -> Changeability:
    """When which fields can be changed, for people to read."""
    found = Changeability()
    for name, field in model.model_fields.items():
        spoken = f"{path}.{wire_name(model, name)}".lstrip(".")
        if name in model.immutable_fields:
            found += Changeability(never=(spoken,))
        elif name in model.settled_fields:
            found += Changeability(settled=(spoken,))
        elif (block := _block_of(field)) is not None:
            found += changeability(block, spoken)
        else:
            found += Changeability(always=(spoken,))
    return found


def wire_name(model: type[ApiModel], name: str) -> str:
    """The JSON name of a field."""
    return model.model_fields[name].alias or name


@dataclass(frozen=True)
class Unchanged:
    """A field, as messages name it, and the CEL at the resource's root by which it is as before."""

    field: str
    is_same: str


def immutable_fields(spec: type[ApiModel]) -> tuple[Unchanged, ...]:
    """What never changes, in all blocks of the spec."""
    return _list_unchanged(spec, lambda model: model.immutable_fields)


def settled_fields(spec: type[ApiModel]) -> tuple[Unchanged, ...]:
    """What changes only in a settled phase, in all blocks of the spec."""
    return _list_unchanged(spec, lambda model: model.settled_fields)


def immutability_rule(fields: Sequence[Unchanged]) -> CelRule:
    """One rule on the resource's root for all immutable fields; its message names those that were changed."""
    way_out = "it defines the run; create another FineTuneJob, or delete and re-apply this one"
    return _rule_about_edits(fields, each=" is immutable", of_all=f": {way_out}")


def settled_rule(fields: Sequence[Unchanged]) -> CelRule:
    """One rule on the resource's root, which alone sees the phase, for all fields that change in a settled one only."""
    when = (
        "can be changed only while the job is Pending, Queued, Suspended or Failed: "
        "set suspend: true, wait for phase Suspended, then change it"
    )
    return _rule_about_edits(fields, of_all=f" {when}", unless=f" || {_IS_SETTLED}")


def _rule_about_edits(
    fields: Sequence[Unchanged], *, each: str = "", of_all: str, unless: str = ""
) -> CelRule:
    """Refuse a change of any of the fields: what is said of `each` stands behind its name, what `of_all` at the end.

    Plain strings are put together, because the API server cannot estimate what it costs to join a list.
    """
    are_same = " && ".join(f"({field.is_same})" for field in fields)
    told = " + ".join(f"({field.is_same} ? '' : ', {field.field}{each}')" for field in fields)
    return CelRule(
        f"{_is_status_write()}{unless} || ({are_same})",
        f"a field{each}{of_all}",
        f"({told}).substring(2) + '{of_all}'",
        ".spec",
    )


def _list_unchanged(
    spec: type[ApiModel], names_of: Callable[[type[ApiModel]], Sequence[str]]
) -> tuple[Unchanged, ...]:
    return tuple(
        Unchanged(_spoken(path, wire_name(model, name)), _is_same_below(spec, path, model, name))
        for path, model in _blocks(spec, "spec")
        for name in names_of(model)
    )


def _spoken(path: str, name: str) -> str:
    return f"{path}.{name}".removeprefix("spec.").lstrip(".")


def _blocks(model: type[ApiModel], path: str) -> Iterator[tuple[str, type[ApiModel]]]:
    """`model` and the blocks below it that are no lists, with their paths."""
    yield path, model
    for name, field in model.model_fields.items():
        if (block := _block_of(field)) is not None:
            yield from _blocks(block, f"{path}.{wire_name(model, name)}")


def _block_of(field: FieldInfo) -> type[ApiModel] | None:
    """The model of a field that holds one block, always."""
    annotation: object = field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, ApiModel) else None


def _is_same_below(spec: type[ApiModel], path: str, model: type[ApiModel], name: str) -> str:
    """CEL at the root: whether a field of the block at `path` is as before, or the whole block came or went."""
    same = _is_same(model, name, f".{path}")
    may_be_missing = {
        f"spec.{each}" for each, field in spec.model_fields.items() if is_marked(field, OPTIONAL_KEY)
    }
    return f"!has(self.{path}) || !has(oldSelf.{path}) || ({same})" if path in may_be_missing else same


def _is_same(model: type[ApiModel], name: str, path: str) -> str:
    """CEL: whether a field of the block at `path`, which is there now and before, has the same meaning as before."""
    if rule := model.unchanged_rules.get(name):
        return rule(path)
    field, access = model.model_fields[name], f"{path}.{wire_name(model, name)}"
    new, old = f"self{access}", f"oldSelf{access}"
    if is_marked(field, UNWRITTEN_KEY) and isinstance(field.default, ApiModel):
        return (
            f"(has({new}) && has({old}) ? {new} == {old} : "
            f"(!has({new}) || {_is_default(new, field.default)}) && (!has({old}) || {_is_default(old, field.default)}))"
        )
    if is_marked(field, UNWRITTEN_KEY):
        default = _literal(field)
        return f"(has({new}) ? {new} : {default}) == (has({old}) ? {old} : {default})"
    if isinstance(field.default, ApiModel) and _holds_unwritten(field.default):
        block = type(field.default)
        return " && ".join(_is_same(block, each, access) for each in block.model_fields)
    if field.is_required():
        return f"{new} == {old}"
    # Also where there is a default: the default `{}` of a block is held to its rules before it is filled in.
    return _is_same_value(access.removeprefix("."))


def _is_default(access: str, block: ApiModel) -> str:
    """CEL: whether the block at `access`, which is there, says what its absence says."""
    return " && ".join(
        f"!has({access}.{each})"
        if value is None
        else f"(!has({access}.{each}) || {access}.{each} == {value})"
        for each, value in _defaults(type(block))
    )


def _defaults(model: type[ApiModel]) -> Iterator[tuple[str, str | None]]:
    for name, field in model.model_fields.items():
        yield wire_name(model, name), None if field.default is None else _literal(field)


def is_marked(field: FieldInfo, key: str) -> bool:
    """Whether the field's json_schema_extra carries one of base's keys."""
    return isinstance(field.json_schema_extra, dict) and bool(field.json_schema_extra.get(key))


def _holds_unwritten(block: ApiModel) -> bool:
    return any(
        is_marked(field, UNWRITTEN_KEY)
        or (isinstance(field.default, ApiModel) and _holds_unwritten(field.default))
        for field in type(block).model_fields.values()
    )


def _literal(field: FieldInfo) -> str:
    return json.dumps(float(field.default) if field.annotation is float else field.default)
