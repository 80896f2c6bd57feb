"""What to take instead of a refused cell: the supported one that gives up least. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from tests.matrix.axes import WAYS, Combination
from tests.matrix.refusals import is_supported

# In this order one value is tried instead of a refused one: what changes speed alone comes first, the method last.
_ALTERNATIVES: Mapping[str, tuple[str, ...]] = {
    "packing": ("Auto",),
    "checkpointing": ("Auto",),
    "precision": ("BF16", "FP32"),
    "optimizer": ("AdamW", "AdamW8bit"),
    "way": tuple(WAYS),
    "method": ("LoRA",),
}


def nearest_supported(cell: Combination) -> Combination:
    """The supported cell that differs in the fewest values, the cheaper ones to give up first."""
    for count in range(1, len(_ALTERNATIVES) + 1):
        for candidate in _changed(cell, tuple(_ALTERNATIVES), count):
            if is_supported(candidate):
                return candidate
    raise AssertionError(f"nothing is near {cell.name}")


def new_settings(cell: Combination, other: Combination) -> list[tuple[str, str]]:
    """What `other` sets otherwise: fields, as the API calls them, with the new values."""
    pairs = zip(_settings(cell), _settings(other), strict=True)
    return [there for here, there in pairs if here != there]


def _settings(cell: Combination) -> list[tuple[str, str]]:
    way = WAYS[cell.way]
    return [
        ("packing", cell.packing),
        ("gradientCheckpointing", cell.checkpointing),
        ("precision", cell.precision),
        ("optimizer", cell.optimizer),
        ("strategy", way.strategy),
        ("offload", way.offload),
        ("method", cell.method),
    ]


def _changed(cell: Combination, axes: tuple[str, ...], count: int) -> Iterator[Combination]:
    """The cell with `count` of these axes set to other values, the first axes first."""
    if count == 0:
        yield cell
        return
    for place, axis in enumerate(axes):
        for value in _other_values(cell, axis):
            yield from _changed(replace(cell, **{axis: value}), axes[place + 1 :], count - 1)


def _other_values(cell: Combination, axis: str) -> list[str]:
    here = getattr(cell, axis)
    if axis == "way":
        return sorted((name for name in WAYS if name != here), key=lambda name: _distance(here, name))
    if axis == "precision" and cell.device == "CPU":
        return ["Auto"]
    return [value for value in _ALTERNATIVES[axis] if value != here]


def _distance(here: str, there: str) -> tuple[bool, bool, int]:
    """One process stays one; with or without offload comes before how much is split up."""
    order = tuple(WAYS)
    offloads = WAYS[here].offload != "None", WAYS[there].offload != "None"
    is_less = order.index(there) < order.index(here)
    return there == "one process", offloads[0] != offloads[1], _steps(order, here, there, is_less)


def _steps(order: tuple[str, ...], here: str, there: str, is_less: bool) -> int:
    # What splits up less is what is missing; what splits up more would not be asked for instead.
    steps = abs(order.index(there) - order.index(here))
    return steps if is_less else steps + len(order)
