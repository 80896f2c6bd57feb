"""Writes plain objects as YAML: only what a CRD needs, so that the shared vocabulary keeps to the standard library."""

from __future__ import annotations

import json
import re

from pydantic import JsonValue

_PLAIN = re.compile(r"^[A-Za-z][A-Za-z0-9 _./()-]*[A-Za-z0-9)]$|^[A-Za-z]$")
_RESERVED = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})


def to_yaml(value: JsonValue, indent: int = 0) -> str:
    """Block style, two spaces, keys in the order given."""
    return "\n".join(_lines(value, indent)) + "\n"


def _lines(value: JsonValue, indent: int) -> list[str]:
    pad = " " * indent
    if isinstance(value, dict):
        return [line for key, item in value.items() for line in _entry(f"{pad}{_scalar(key)}:", item, indent)]
    if isinstance(value, list):
        return [line for item in value for line in _item(item, indent)]
    return [f"{pad}{_scalar(value)}"]


def _entry(head: str, item: JsonValue, indent: int) -> list[str]:
    if isinstance(item, dict | list) and item:
        return [head, *_lines(item, indent + 2)]
    return [f"{head} {_scalar(item)}"]


def _item(item: JsonValue, indent: int) -> list[str]:
    lines = _lines(item, indent + 2) if isinstance(item, dict | list) and item else [_scalar(item)]
    return [f"{' ' * indent}- {lines[0].lstrip()}", *lines[1:]]


def _scalar(value: JsonValue) -> str:
    if isinstance(value, str) and _PLAIN.match(value) and value.lower() not in _RESERVED:
        return value
    return json.dumps(value, ensure_ascii=False)
