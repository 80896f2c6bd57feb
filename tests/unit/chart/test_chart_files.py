"""The chart's own files agree with each other and with the distribution."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[3]
CHART = ROOT / "helm/finetune-operator"


def test_the_chart_has_the_distributions_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert chart["version"] == chart["appVersion"] == project["version"]


def test_every_value_is_in_the_schema_and_every_schema_key_has_a_default() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert set(_closed_paths(schema)) - {"global"} == set(_value_paths(values, schema))


def test_every_value_is_described() -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    undescribed, described = [], False
    for line in lines:
        text = line.strip()
        if text.startswith("#"):
            described = described or text.startswith("# --")
            continue
        is_block = text.endswith(":")
        if text and not is_block and not described and not _inside_described_block(lines, line):
            undescribed.append(text)
        described = False
    assert undescribed == []


def _inside_described_block(lines: list[str], line: str) -> bool:
    """Whether an enclosing key carries the comment (`resources`, security contexts)."""
    indent = len(line) - len(line.lstrip())
    for index in range(lines.index(line) - 1, -1, -1):
        above = lines[index]
        own = len(above) - len(above.lstrip())
        if above.strip().endswith(":") and own < indent:
            if lines[index - 1].strip().startswith("# "):
                return True
            indent = own
    return False


def _closed_paths(schema: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, child in schema.get("properties", {}).items():
        if child.get("additionalProperties") is False:
            yield from _closed_paths(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _value_paths(values: dict[str, Any], schema: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in values.items():
        child = schema.get("properties", {}).get(name, {})
        if child.get("additionalProperties") is False:
            yield from _value_paths(value, child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
