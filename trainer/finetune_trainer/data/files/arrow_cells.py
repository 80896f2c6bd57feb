"""Arrow columns as plain Python: text, numbers, lists and dicts, as JSON would have them.

Times become ISO text, decimals text, and what is missing or not a number None. Bytes that are UTF-8 are text, since old
writers mark text so; other bytes are a problem of their row.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

Convert = Callable[[Any], object]


@dataclass(frozen=True, slots=True)
class CellProblem:
    """Stands in place of a cell that cannot be read."""

    reason: str


def plain_cells(column: pa.Array) -> tuple[list[object], bool]:
    """The cells of a column, and whether some are CellProblems."""
    readable = readable_type(column.type)
    if readable != column.type:
        # Nanoseconds are cut: Python has none.
        column = column.cast(readable, safe=False)
    convert = _converter(readable)
    try:
        cells = column.to_pylist()
        return ([convert(cell) for cell in cells] if convert else cells), False
    except (ValueError, OverflowError):
        return [_cell(scalar, convert) for scalar in column], True


def readable_type(kind: pa.DataType) -> pa.DataType:
    """The nearest type whose cells become Python objects without pandas and without a list of time zones."""
    if isinstance(kind, pa.BaseExtensionType):
        return readable_type(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return readable_type(kind.value_type)
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz and "UTC")
    if pa.types.is_time(kind):
        return pa.time64("us")
    if pa.types.is_duration(kind):
        return pa.duration("us")
    if pa.types.is_struct(kind):
        return pa.struct([_readable_field(field) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(readable_type(kind.key_type), readable_type(kind.item_type))
    if _is_list(kind):
        return pa.list_(_readable_field(kind.value_field)) if _has_other_type(kind) else kind
    return kind


def _readable_field(field: pa.Field) -> pa.Field:
    return field.with_type(readable_type(field.type))


def _has_other_type(kind: pa.DataType) -> bool:
    return bool(readable_type(kind.value_type) != kind.value_type)


def _is_list(kind: pa.DataType) -> bool:
    checks = (
        pa.types.is_list,
        pa.types.is_large_list,
        pa.types.is_fixed_size_list,
        pa.types.is_list_view,
        pa.types.is_large_list_view,
    )
    return any(check(kind) for check in checks)


# --- one cell --------------------------------------------------------------------------------------------------


def _cell(scalar: pa.Scalar, convert: Convert | None) -> object:
    try:
        cell = scalar.as_py()
        return convert(cell) if convert else cell
    except UnicodeDecodeError:
        return CellProblem("holds bytes that are not UTF-8 text")
    except (ValueError, OverflowError):
        return CellProblem("holds a value that cannot be read")


def _converter(kind: pa.DataType) -> Convert | None:
    """What makes a cell of this type plain; None where it is so already."""
    if (convert := _scalar_converter(kind)) is not None:
        return _or_none(convert)
    if pa.types.is_struct(kind):
        converters = {field.name: convert for field in kind if (convert := _converter(field.type))}
        return _or_none(_struct_converter(converters)) if converters else None
    if pa.types.is_map(kind):
        return _or_none(_map_converter(_converter(kind.item_type)))
    if _is_list(kind) and (convert := _converter(kind.value_type)) is not None:
        return _or_none(_list_converter(convert))
    return None


def _scalar_converter(kind: pa.DataType) -> Convert | None:
    types = pa.types
    if types.is_floating(kind):
        return _finite
    if types.is_decimal(kind) or types.is_duration(kind) or types.is_interval(kind):
        return str
    if types.is_timestamp(kind):
        return _utc_text if kind.tz else datetime.datetime.isoformat
    if types.is_time(kind):
        return datetime.time.isoformat
    if types.is_date(kind):
        return datetime.date.isoformat
    is_bytes = types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)
    return _text if is_bytes or types.is_fixed_size_binary(kind) else None


def _finite(cell: float) -> float | None:
    return cell if math.isfinite(cell) else None


def _utc_text(cell: datetime.datetime) -> str:
    return cell.replace(tzinfo=None).isoformat() + "Z"


def _text(cell: bytes) -> str:
    return cell.decode("utf-8")


def _or_none(convert: Convert) -> Convert:
    return lambda cell: None if cell is None else convert(cell)


def _list_converter(convert: Convert) -> Convert:
    return lambda cell: [convert(item) for item in cell]


def _struct_converter(converters: dict[str, Convert]) -> Convert:
    def convert(cell: dict[str, object]) -> dict[str, object]:
        return {key: converters[key](item) if key in converters else item for key, item in cell.items()}

    return convert


def _map_converter(convert: Convert | None) -> Convert:
    return lambda cell: {str(key): convert(item) if convert else item for key, item in cell}
