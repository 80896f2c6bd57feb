"""The comments of a chart's values.yaml as the rows of its README's table: `# -- text` above a key, as helm-docs reads it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

LONGEST_DEFAULT = 60


@dataclass(frozen=True)
class DescribedValue:
    """One value that a comment describes."""

    path: tuple[str, ...]
    default: Any
    description: str

    @property
    def row(self) -> str:
        """Its row of the table."""
        default = json.dumps(self.default)
        shown = f"`{default}`" if len(default) <= LONGEST_DEFAULT else "see values.yaml"
        return f"| `{'.'.join(self.path)}` | {shown} | {self.description.replace('|', '&#124;')} |"


def describe_values(text: str) -> Iterator[DescribedValue]:
    """Yield the values that have a comment, in their order."""
    values, path, comment = yaml.safe_load(text), list[tuple[int, str]](), list[str]()
    for line in text.splitlines():
        content, indent = line.strip(), len(line) - len(line.lstrip())
        if content.startswith("# --"):
            comment = [content.removeprefix("# --").strip()]
        elif content.startswith("#") and comment:
            comment.append(content.removeprefix("#").strip())
        elif content and not content.startswith(("#", "-")):
            path = [each for each in path if each[0] < indent] + [(indent, content.split(":", 1)[0])]
            names = tuple(name for _, name in path)
            if comment:
                yield DescribedValue(names, _value_at(values, names), " ".join(comment))
            comment = []
        elif not content:
            comment = []


def _value_at(values: Any, names: tuple[str, ...]) -> Any:
    for name in names:
        values = values[name]
    return values
