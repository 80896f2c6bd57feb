"""A Kubernetes API server's own OpenAPI documents as strict JSON schemas, one file a kind, as kubeconform reads them.

So manifests are checked against exactly the version that the tests run, without downloading anything.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Where kubeconform finds the files that `write_schemas` writes.
SCHEMA_LOCATION = "{{.Group}}/{{.ResourceKind}}_{{.ResourceAPIVersion}}.json"
_REFERENCE = "#/components/schemas/"
_KIND_KEY = "x-kubernetes-group-version-kind"


def write_schemas(document: dict[str, Any], folder: Path) -> int:
    """Write every kind of one OpenAPI v3 document; return how many."""
    kinds = list(build_kind_schemas(document))
    for path, schema in kinds:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(json.dumps(schema))
    return len(kinds)


def build_kind_schemas(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield file name and schema of each kind; the schema stands alone and refuses unknown fields."""
    components = document.get("components", {}).get("schemas", {})
    definitions = {name: _strict(schema) for name, schema in components.items()}
    for name, schema in components.items():
        for kind in schema.get(_KIND_KEY, []):
            # kubeconform's name of the core group, which has none, is its version.
            group = kind["group"] or kind["version"]
            file_name = f"{group}/{kind['kind'].lower()}_{kind['version']}.json"
            yield file_name, {"$ref": f"#/definitions/{name}", "definitions": definitions}


def _strict(schema: dict[str, Any]) -> dict[str, Any]:
    changed = copy.deepcopy(schema)
    for node in _nodes(changed):
        reference = node.get("$ref")
        if isinstance(reference, str):
            node["$ref"] = reference.replace(_REFERENCE, "#/definitions/")
        if isinstance(node.get("properties"), dict) and not node.get("x-kubernetes-preserve-unknown-fields"):
            node.setdefault("additionalProperties", False)
    return changed


def _nodes(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield schema
    for name in ("items", "additionalProperties", "not"):
        if isinstance(schema.get(name), dict):
            yield from _nodes(schema[name])
    for name in ("allOf", "anyOf", "oneOf"):
        for each in schema.get(name, []):
            yield from _nodes(each)
    for each in schema.get("properties", {}).values():
        yield from _nodes(each)
