"""The generated schema is structural, and says what the models say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

import pytest
import yaml
from pydantic import Field

from finetune_api.base import ApiModel, CelRule
from finetune_api.generate.__main__ import generated_files
from finetune_api.generate.crd import build_crd
from finetune_api.generate.schema import structural_schema
from finetune_api.generate.yaml_text import to_yaml


def root_schema() -> dict[str, Any]:
    schema: dict[str, Any] = build_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def walk(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from walk(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from walk(schema[key], f"{path}[]")


def test_the_schema_uses_only_what_structural_schemas_allow() -> None:
    forbidden = {"$ref", "$defs", "title", "patternProperties", "propertyNames", "const", "oneOf", "allOf"}
    found = [(path, key) for path, schema in walk(root_schema()) for key in schema if key in forbidden]

    assert found == []


def test_every_string_list_and_map_of_the_spec_is_bounded() -> None:
    """The API server refuses CEL rules over values without bounds: their cost cannot be estimated."""
    unbounded = [
        path
        for path, schema in walk(root_schema()["properties"]["spec"])
        if (schema.get("type") == "string" and not schema.keys() & {"maxLength", "enum"})
        or (schema.get("type") == "array" and "maxItems" not in schema)
        or (isinstance(schema.get("additionalProperties"), dict) and "maxProperties" not in schema)
    ]

    assert unbounded == []


def test_every_field_is_documented_under_its_own_name() -> None:
    silent = [
        path
        for path, schema in walk(root_schema()["properties"]["spec"], "spec")
        if path.count(".") and not path.endswith("[]") and not _opens_with_name(path, schema)
    ]

    assert silent == []


def _opens_with_name(path: str, schema: dict[str, Any]) -> bool:
    return str(schema.get("description", "")).startswith(path.rsplit(".", 1)[1])


def test_a_block_defaults_to_an_empty_object_so_that_defaults_stand_in_one_place() -> None:
    spec = root_schema()["properties"]["spec"]["properties"]

    assert spec["training"]["default"] == {}
    assert spec["resources"]["properties"]["export"]["default"] == {
        "cpu": "2",
        "memory": "8Gi",
        "ephemeralStorage": "50Gi",
    }


class Example(ApiModel):
    cel_rules: ClassVar[tuple[CelRule, ...]] = (CelRule("self.some > 1.0", "some is small"),)
    immutable_fields: ClassVar[tuple[str, ...]] = ("some", "maybe")
    some: Annotated[float, Field(gt=0, lt=1)]
    maybe: int | None = None


def test_bounds_nulls_rules_and_immutability_are_translated() -> None:
    schema = structural_schema(Example)

    assert schema["properties"]["some"] == {
        "type": "number",
        "minimum": 0,
        "exclusiveMinimum": True,
        "maximum": 1,
        "exclusiveMaximum": True,
    }
    assert schema["properties"]["maybe"] == {"type": "integer", "format": "int64"}
    assert [rule["rule"] for rule in schema["x-kubernetes-validations"]] == [
        "self.some > 1.0",
        "self.some == oldSelf.some",
        "has(self.maybe) == has(oldSelf.maybe) && (!has(self.maybe) || self.maybe == oldSelf.maybe)",
    ]


@pytest.mark.parametrize(
    "value",
    [
        pytest.param({"a": {"b": [1, {"c": "d", "e": []}], "f": {}}}, id="nesting"),
        pytest.param(
            {"a": "yes", "b": "", "c": "1.5", "d": "x: y", "e": "中文", "on": None},
            id="words YAML would bend",
        ),
        pytest.param([["a"], [], "- b"], id="lists of lists"),
    ],
)
def test_yaml_text_reads_back_as_written(value: Any) -> None:
    assert yaml.safe_load(to_yaml(value)) == value


def test_the_crd_file_reads_back_as_the_crd() -> None:
    assert yaml.safe_load(generated_files()["crds/finetunejobs.yaml"]) == build_crd()
