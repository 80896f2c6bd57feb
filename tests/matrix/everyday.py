"""The cells that `make test` trains: every pair of method, strategy, number format, architecture and switch. Pure."""

from __future__ import annotations

from functools import cache

from tests.matrix.axes import PRECISIONS, VARIANTS, WAYS, Combination
from tests.matrix.cover import Row, cover_pairs
from tests.matrix.refusals import is_supported

# Where there is a choice, the first value is taken: two processes, which is what strategies are for.
AXES: dict[str, tuple[object, ...]] = {
    "method": tuple(VARIANTS),
    "way": tuple(WAYS),
    "precision": PRECISIONS,
    "architecture": ("qwen3", "qwen2"),
    "world_size": (2, 3, 1),
    "checkpointing": ("Auto", "Enabled"),
    "packing": ("Auto", "Disabled"),
}
_NOT_OF_THE_TABLE = ("architecture", "world_size")


@cache
def everyday_rows() -> list[Row]:
    """The rows, in an order that is always the same."""
    return cover_pairs(AXES, is_everyday)


def is_everyday(row: Row) -> bool:
    """Whether the row is supported, and its processes are as many as its strategy has."""
    fits = {"one process": row["world_size"] == 1, "DDP": row["world_size"] != 1}
    return fits.get(str(row["way"]), True) and is_supported(combination_of(row))


def combination_of(row: Row) -> Combination:
    """The row's cell of the table."""
    return Combination(**{axis: value for axis, value in row.items() if axis not in _NOT_OF_THE_TABLE})  # type: ignore[arg-type]
