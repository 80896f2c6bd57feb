"""OpenAPI documents become schemas that refuse what the API server would silently drop."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from tests.builders.kubernetes_schemas import build_kind_schemas

DOCUMENT: dict[str, Any] = {
    "components": {
        "schemas": {
            "example.Widget": {
                "type": "object",
                "properties": {
                    "kind": {"type": "string"},
                    "spec": {"allOf": [{"$ref": "#/components/schemas/example.Spec"}], "default": {}},
                    "free": {
                        "type": "object",
                        "properties": {"a": {"type": "string"}},
                        "x-kubernetes-preserve-unknown-fields": True,
                    },
                },
                "x-kubernetes-group-version-kind": [
                    {"group": "example.com", "kind": "Widget", "version": "v1"}
                ],
            },
            "example.Spec": {
                "type": "object",
                "properties": {
                    "size": {"type": "integer"},
                    "labels": {"additionalProperties": {"type": "string"}},
                },
            },
        }
    }
}


def test_each_kind_is_one_file() -> None:
    assert [name for name, _ in build_kind_schemas(DOCUMENT)] == ["example.com/widget_v1.json"]


@pytest.mark.parametrize(
    ("widget", "is_valid"),
    [
        ({"spec": {"size": 1, "labels": {"any": "x"}}}, True),
        ({"spec": {"sze": 1}}, False),
        ({"spec": {"size": "1"}}, False),
        ({"sped": {}}, False),
        ({"free": {"b": 1}}, True),
    ],
    ids=["right", "unknown field behind a reference", "wrong type", "unknown field on top", "open object"],
)
def test_unknown_fields_are_refused(widget: dict[str, Any], is_valid: bool) -> None:
    ((_, schema),) = build_kind_schemas(DOCUMENT)
    assert jsonschema.Draft7Validator(schema).is_valid(widget) is is_valid
