"""Looks at the values of a row: what kind they are, whether they are text, and what is said where they are not.

A reason quotes no text of the row: kinds, names of columns and roles, nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

_SHOWN_CHARACTERS = 40
_SHOWN_COLUMNS = 16

Row = Mapping[str, object]


class Unusable(Exception):
    """Why a row cannot be used, without where it stands, and the column it is about."""

    def __init__(self, reason: str, column: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.column = column


_KINDS = {
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "an object",
}


def kind_of(value: object) -> str:
    """What a value is, in JSON's words."""
    return "null" if value is None else _KINDS.get(type(value), type(value).__name__)


def shown(name: object) -> str:
    """A name of a role, a column or a type, cut short; other values by their kind only."""
    if name is None:
        return "none"
    if not isinstance(name, str):
        return kind_of(name)
    return repr(cut(name))


def cut(name: str) -> str:
    """A name of at most 40 characters."""
    return name if len(name) <= _SHOWN_CHARACTERS else name[:_SHOWN_CHARACTERS] + " …"


def column_names(row: Row) -> str:
    """The names of a row's columns."""
    names = sorted(cut(str(name)) for name in row)
    if not names:
        return "no columns"
    more = f" and {len(names) - _SHOWN_COLUMNS} more" if len(names) > _SHOWN_COLUMNS else ""
    return ", ".join(names[:_SHOWN_COLUMNS]) + more


def as_object(value: object) -> Row:
    """The row as columns."""
    if not isinstance(value, dict):
        raise Unusable(f"the row is {kind_of(value)}; it must be an object")
    return value


def required_value(row: Row, column: str) -> object:
    """The value of a column that every row must have."""
    if column not in row:
        raise Unusable(f"column {cut(column)} is missing (it has {column_names(row)})", column)
    return row[column]


def required_text(row: Row, column: str) -> str:
    """The text of a column that must not be blank."""
    text = as_text(required_value(row, column), f"column {cut(column)}", column)
    if not text.strip():
        raise Unusable(f"column {cut(column)} is empty", column)
    return text


def optional_text(row: Row, column: str | None) -> str:
    """The text of a column that a row may lack; absent, null and blank are one."""
    if column is None or is_blank(row.get(column)):
        return ""
    return as_text(row[column], f"column {cut(column)}", column)


def as_text(value: object, name: str, column: str | None = None) -> str:
    """The value, which must be text."""
    if not isinstance(value, str):
        raise Unusable(f"{name} is {kind_of(value)}; it must be text", column)
    return value


def parse_json(text: str, name: str, column: str | None = None) -> object:
    """What a text says that must be JSON."""
    try:
        parsed: object = json.loads(text, parse_constant=_refuse_constant)
        if "\\u" in text:
            # Half of a surrogate pair is no character, and no tokenizer takes it.
            json.dumps(parsed, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise Unusable(f"{name} is text that is not JSON", column) from None
    return parsed


def is_blank(value: object) -> bool:
    """Whether a cell has nothing: null, or text of white space, which is what CSV has instead."""
    return value is None or (isinstance(value, str) and not value.strip())


def _refuse_constant(constant: str) -> object:
    raise ValueError(constant)


def listed(names: Sequence[str], limit: int = 10) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(cut(name) for name in names[:limit]) + more
