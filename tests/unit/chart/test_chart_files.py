"""The chart's own files agree with each other and with the distribution."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from finetune_api.spec import Addressing, Checksums, Store
from finetune_operator.hub_access import HUB_VARIABLES, VALUE_PATTERN
from finetune_operator.settings import KUEUE_DOMAIN, RESERVED_DOMAINS
from tests.builders.chart_values import describe_values

ROOT = Path(__file__).parents[3]
CHART = ROOT / "helm/finetune-operator"


def test_the_chart_has_the_distributions_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert chart["version"] == chart["appVersion"] == project["version"]


def test_every_value_is_in_the_schema_and_every_schema_key_has_a_default() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    # A store's fields are the API's: that they are is the next test's.
    schema = load_schema(defaultStore__store={"type": "object"})
    assert set(_closed_paths(schema)) - {"global"} == set(_value_paths(values, schema))


def test_the_default_store_has_the_fields_of_every_other_store() -> None:
    fields = load_schema()["properties"]["defaultStore"]["properties"]["store"]["properties"]
    assert set(fields) == {field.alias for field in Store.model_fields.values()}
    assert fields["addressing"]["enum"] == [each.value for each in Addressing]
    assert fields["checksums"]["enum"] == [each.value for each in Checksums]


def test_the_schema_refuses_the_keys_that_the_operator_refuses() -> None:
    blocks = load_schema()["properties"]["passThrough"]["properties"]
    for block, domains in (
        ("labels", (*RESERVED_DOMAINS, KUEUE_DOMAIN)),
        ("annotations", RESERVED_DOMAINS),
    ):
        pattern = blocks[block]["items"]["not"]["pattern"]
        assert all(re.search(pattern, f"{domain}/key") for domain in domains)
        assert not re.search(pattern, "example.com/key")


def test_the_schema_takes_the_variables_for_hubs_that_the_operator_takes() -> None:
    block = load_schema()["properties"]["trainer"]["properties"]["hub"]["properties"]["env"]
    assert block["propertyNames"]["enum"] == list(HUB_VARIABLES)
    assert block["additionalProperties"]["pattern"] == VALUE_PATTERN


def test_the_readme_has_a_row_for_every_value() -> None:
    rows = [value.row for value in describe_values((CHART / "values.yaml").read_text())]
    after_mark = (CHART / "README.md").read_text().split("<!-- values", 1)[1]
    table = after_mark.split("|---|---|---|\n", 1)[1].split("\n\n", 1)[0]
    assert table.splitlines() == rows


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


def load_schema(**changes: Any) -> dict[str, Any]:
    """The schema of the values; `changes` replaces a block, its path written with `__` for the dot."""
    schema: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
    for path, block in changes.items():
        *above, last = path.split("__")
        parent = schema["properties"]
        for name in above:
            parent = parent[name]["properties"]
        parent[last] = block
    return schema


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
