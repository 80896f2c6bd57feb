"""The generated schema is structural, and says what the models say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

import pytest
import yaml
from pydantic import BeforeValidator, Field, ValidationError, WithJsonSchema

from finetune_api.base import (
    MESSAGE_KEY,
    OPTIONAL,
    OPTIONAL_KEY,
    UNWRITTEN,
    UNWRITTEN_KEY,
    ApiModel,
    CelRule,
    auto_or_integer_schema,
    auto_to_none,
)
from finetune_api.generate.__main__ import generated_files
from finetune_api.generate.changes import changeability
from finetune_api.generate.crd import build_crd, build_root_schema
from finetune_api.generate.schema import structural_schema, without_annotations
from finetune_api.generate.yaml_text import to_yaml
from finetune_api.spec import Dataset, DataSource, FineTuneJobSpec
from finetune_api.spec.dataset import SAME_REFERENCES


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
    forbidden |= {MESSAGE_KEY, OPTIONAL_KEY, UNWRITTEN_KEY}
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


def test_every_field_that_may_be_left_out_says_what_happens_then() -> None:
    says = ("efault", "nstead of", "ithout ")
    silent = [
        f"{path}.{name}"
        for path, schema in walk(build_root_schema()["properties"]["spec"], "spec")
        for name, child in schema.get("properties", {}).items()
        if name not in schema.get("required", [])
        and not child.keys() & {"default", UNWRITTEN_KEY}
        and not any(word in child["description"] for word in says)
    ]

    assert silent == []


def test_every_field_says_when_it_can_be_changed() -> None:
    spec, fields = build_root_schema()["properties"]["spec"], changeability(FineTuneJobSpec)
    words = {"at any time": fields.always, "an be changed while": fields.settled, "Immutable": fields.never}

    silent = [
        name
        for word, names in words.items()
        for name in names
        if word not in _field(spec, name)["description"]
    ]

    assert silent == []
    # A new field is in one of the other two lists unless somebody decides otherwise, here.
    assert set(fields.always) == {
        "failurePolicy.pendingDeadlineSeconds",
        "failurePolicy.activeDeadlineSeconds",
        "suspend",
        "retry",
        "ttlSecondsAfterFinished",
        "deletionPolicy",
    }
    assert {"resources", "model.store", "training.microBatchTokens"} < set(fields.settled)
    assert {"method.type", "dataset.train", "output.uri"} < set(fields.never)


def _field(schema: dict[str, Any], path: str) -> dict[str, Any]:
    for name in path.split("."):
        schema = schema["properties"][name]
    return schema


def test_every_field_of_a_data_source_is_part_of_its_rows_or_a_reference() -> None:
    """What is in neither could be changed while the job runs."""
    rows = Dataset.unchanged_rules["train"](".spec.dataset")
    references = dict(SAME_REFERENCES)["store and tokenSecretRef of dataset.train"]

    for field in DataSource.model_fields.values():
        compared = [rule for rule in (rows, references) if f"has(s.{field.alias}) " in rule]
        assert len(compared) == 1, field.alias


def test_the_definition_fits_into_the_annotation_of_a_client_side_apply() -> None:
    assert len(json.dumps(build_crd(), ensure_ascii=False).encode()) < 0.8 * 262_144


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
    some: Annotated[float, Field(gt=0, lt=1)]
    maybe: int | None = None


def test_bounds_nulls_and_rules_are_translated() -> None:
    schema = structural_schema(Example)

    assert schema["properties"]["some"] == {
        "type": "number",
        "minimum": 0,
        "exclusiveMinimum": True,
        "maximum": 1,
        "exclusiveMaximum": True,
    }
    assert schema["properties"]["maybe"] == {"type": "integer", "format": "int64"}
    assert schema["x-kubernetes-validations"] == [{"rule": "self.some > 1.0", "message": "some is small"}]


class Place(ApiModel):
    uri: str = Field(max_length=9, description="uri")


class Marked(ApiModel):
    place: Place = Field(json_schema_extra=OPTIONAL, description="place")
    rows: int = Field(default=16, json_schema_extra=UNWRITTEN, description="rows")
    tokens: Annotated[
        int | None, BeforeValidator(auto_to_none), WithJsonSchema(auto_or_integer_schema(8, 64))
    ] = Field(default=None, json_schema_extra={MESSAGE_KEY: "tokens must be Auto or a number"})


def test_what_the_operator_fills_in_is_required_by_the_models_only() -> None:
    assert "required" not in structural_schema(Marked)
    with pytest.raises(ValidationError):
        Marked.model_validate({})


def test_a_default_that_is_not_written_stands_in_the_reference_only() -> None:
    schema = structural_schema(Marked)

    assert schema["properties"]["rows"][UNWRITTEN_KEY] == 16
    assert without_annotations(schema)["properties"]["rows"] == {
        "description": "rows",
        "format": "int64",
        "type": "integer",
    }
    assert Marked.model_validate({"place": {"uri": "a"}}).rows == 16


def test_auto_or_a_number_is_one_structural_type_with_bounds_and_a_sentence() -> None:
    tokens = structural_schema(Marked)["properties"]["tokens"]

    assert tokens == {
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "maxLength": 4,
        "maximum": 64,
        "minimum": 8,
        "x-kubernetes-int-or-string": True,
        "x-kubernetes-validations": [
            {"rule": "type(self) == int || self == 'Auto'", "message": "tokens must be Auto or a number"}
        ],
    }


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
