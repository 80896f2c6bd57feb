"""Which edits the API server refuses: of what never changes, and of what changes only while nothing made from it runs.

A plain `self.x == oldSelf.x` is skipped when the field comes or goes, so every rule stands on the parent and asks with
`has` first. (`self.?x == oldSelf.?x` would be shorter, but the API server cannot estimate what it costs and refuses
it.) A default that is not written into objects counts as if it stood there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic.fields import FieldInfo

from finetune_api.base import OPTIONAL_KEY, UNWRITTEN_KEY, ApiModel, CelRule
from finetune_api.status import Phase

# A new attempt is made in all of these before anything runs again.
_SETTLED_PHASES = (Phase.PENDING, Phase.QUEUED, Phase.SUSPENDED, Phase.FAILED)
_IS_SETTLED = "!has(oldSelf.status) || !has(oldSelf.status.phase) || oldSelf.status.phase in [{}]".format(
    ", ".join(f"'{phase}'" for phase in _SETTLED_PHASES)
)


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


def immutability_rules(model: type[ApiModel], path: str) -> tuple[CelRule, ...]:
    """Rules on `model`'s own schema: its immutable fields stay as they were."""
    return tuple(
        CelRule(
            model.unchanged_rules.get(name) or _is_same(model, name),
            f"{_spoken(path, wire_name(model, name))} is immutable: it defines the run; "
            "create another FineTuneJob, or delete and re-apply this one",
        )
        for name in model.immutable_fields
    )


def settled_rules(spec: type[ApiModel]) -> tuple[CelRule, ...]:
    """Rules on the resource's root, which alone sees the phase: settled fields change only in a settled phase."""
    return tuple(
        settled_rule(_spoken(path, wire_name(model, name)), _is_same_below(spec, path, model, name))
        for path, model in _blocks(spec, "spec")
        for name in model.settled_fields
    )


def settled_rule(field: str, is_same: str) -> CelRule:
    """A rule on the resource's root by which `field` is the same as before, or the phase is a settled one."""
    return CelRule(
        # The phase first: it is cheap, and mostly enough. API servers pay for each property that a rule reads.
        f"{_IS_SETTLED} || {is_same}",
        f"{field} can be changed only while the job is Pending, Queued, Suspended or Failed: "
        "set suspend: true, wait for phase Suspended, then change it",
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


def _is_same(model: type[ApiModel], name: str, path: str = "") -> str:
    """CEL: whether a field of the block at `path`, which is there now and before, has the same meaning as before."""
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
    return f"has({new}) == has({old}) && (!has({new}) || {new} == {old})"


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
