"""A pydantic model → a structural OpenAPI v3 schema, as CustomResourceDefinitions want it.

Kubernetes allows less than JSON Schema: no $ref, no null unions, no patternProperties, no additionalProperties
beside properties. Source: "Structural schemas" in the Kubernetes CRD documentation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from finetune_api.base import AUTO, MESSAGE_KEY, OPTIONAL_KEY, UNWRITTEN_KEY, ApiModel, CelRule
from finetune_api.generate.changes import is_marked, wire_name

Schema: TypeAlias = dict[str, Any]

_DROPPED = frozenset(
    {
        "title",
        "additionalProperties",
        "propertyNames",
        "patternProperties",
        "const",
        "examples",
        "$defs",
        MESSAGE_KEY,
        OPTIONAL_KEY,
    }
)


def structural_schema(model: type[ApiModel]) -> Schema:
    """The schema of `model`, self-contained, with defaults, bounds and CEL rules.

    Defaults that are not written into objects stand under UNWRITTEN_KEY, for the field reference: see
    `without_annotations`.
    """
    root = model.model_json_schema(by_alias=True, mode="validation")
    return _Converter(root.get("$defs", {}), _models_by_name(model)).convert(root, model)


def without_annotations(schema: Schema) -> Schema:
    """The schema as the API server takes it."""
    return {key: _without_annotations(value) for key, value in schema.items() if key != UNWRITTEN_KEY}


def _without_annotations(value: object) -> object:
    if isinstance(value, dict):
        return without_annotations(value)
    return value


def _models_by_name(model: type[ApiModel]) -> dict[str, type[ApiModel]]:
    """Every model reachable from `model`, by class name, which is how pydantic names its definitions."""
    found: dict[str, type[ApiModel]] = {}

    def visit(candidate: object) -> None:
        if isinstance(candidate, type) and issubclass(candidate, ApiModel):
            if candidate.__name__ not in found:
                found[candidate.__name__] = candidate
                for field in candidate.model_fields.values():
                    visit(field.annotation)
            return
        for argument in get_args(candidate):
            visit(argument)

    visit(model)
    return found


@dataclass(frozen=True)
class _Converter:
    """Translates one node after the other; `models` are known by the names under which `definitions` hold them."""

    definitions: Schema
    models: dict[str, type[ApiModel]]

    def convert(self, schema: Schema, model: type[ApiModel] | None) -> Schema:
        schema, model = self._resolved(schema, model)
        result = {key: value for key, value in schema.items() if key not in _DROPPED}
        if "properties" in schema:
            result["properties"] = self._properties(schema["properties"], model)
        if "items" in schema:
            result["items"] = self.convert(schema["items"], None)
        self._convert_map(schema, result)
        _convert_exclusive_bounds(result)
        _convert_pattern(schema, result)
        if model is not None:
            _set_required(result, model)
            _add_rules(result, model.cel_rules)
        if result.get("type") == "integer":
            result.setdefault("format", "int64")
        return dict(sorted(result.items()))

    def _resolved(self, schema: Schema, model: type[ApiModel] | None) -> tuple[Schema, type[ApiModel] | None]:
        """`schema` with references and null unions replaced by what they stand for; siblings (description …) win."""
        while True:
            siblings = {key: value for key, value in schema.items() if key not in ("$ref", "anyOf", "allOf")}
            if "$ref" in schema:
                name = schema["$ref"].rsplit("/", 1)[1]
                model = self.models.get(name)
                schema = {**self.definitions[name], **siblings}
            elif "anyOf" in schema and "x-kubernetes-int-or-string" not in schema:
                (only,) = [option for option in schema["anyOf"] if option.get("type") != "null"]
                schema = {**only, **siblings}
            else:
                return schema, model

    def _properties(self, properties: Schema, model: type[ApiModel] | None) -> Schema:
        fields = (
            {} if model is None else {wire_name(model, name): f for name, f in model.model_fields.items()}
        )
        return {
            name: _with_default(self.convert(child, None), fields.get(name))
            for name, child in properties.items()
        }

    def _convert_map(self, schema: Schema, result: Schema) -> None:
        """A dict field: values keep their schema; what the keys must look like becomes a CEL rule."""
        if schema.get("type") != "object" or "properties" in schema:
            return
        key_pattern, value_schema = _map_entries(schema)
        if isinstance(value_schema, dict) and value_schema:
            result["additionalProperties"] = self.convert(value_schema, None)
        if key_pattern:
            rule = CelRule(
                f"self.all(key, key.matches(r'{key_pattern}'))",
                "keys must be qualified names, such as example.com/name",
            )
            _add_rules(result, (rule,))


def _map_entries(schema: Schema) -> tuple[str | None, object]:
    patterns = schema.get("patternProperties", {})
    if patterns:
        ((key_pattern, value_schema),) = patterns.items()
        return key_pattern, value_schema
    return schema.get("propertyNames", {}).get("pattern"), schema.get("additionalProperties")


def _with_default(schema: Schema, field: FieldInfo | None) -> Schema:
    """Gives a block its default: `{}` when every field keeps its own default, so that defaults stand in one place."""
    default = schema.pop("default", None)
    is_unwritten = schema.pop(UNWRITTEN_KEY, False)
    if field is not None and isinstance(field.default, BaseModel):
        default = _differences_from_defaults(field.default)
    if default is None:
        return schema
    return dict(sorted({**schema, UNWRITTEN_KEY if is_unwritten else "default": default}.items()))


def _differences_from_defaults(value: BaseModel) -> Schema:
    dumped = value.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return {key: item for key, item in dumped.items() if item is not None}


def _set_required(result: Schema, model: type[ApiModel]) -> None:
    """What the models require, but for what is filled in behind the API server."""
    filled_in = {
        wire_name(model, name) for name, field in model.model_fields.items() if is_marked(field, OPTIONAL_KEY)
    }
    required = [name for name in result.pop("required", []) if name not in filled_in]
    if required:
        result["required"] = required


def _convert_exclusive_bounds(result: Schema) -> None:
    """JSON Schema's numeric exclusiveMinimum is a boolean beside minimum in OpenAPI 3.0."""
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        value = result.get(exclusive)
        if value is not None and not isinstance(value, bool):
            result[bound], result[exclusive] = value, True


def _convert_pattern(schema: Schema, result: Schema) -> None:
    """A pattern with a sentence of ours becomes a CEL rule: the API server's own message only quotes the expression."""
    message = schema.get(MESSAGE_KEY)
    if not message or "pattern" not in result:
        return
    pattern = result.pop("pattern")
    if "x-kubernetes-int-or-string" in result:
        rule = f"type(self) == int || self == '{AUTO}'"
    else:
        rule = f"self.matches(r'{pattern}')"
    _add_rules(result, (CelRule(rule, message),))


def _add_rules(schema: Schema, rules: tuple[CelRule, ...]) -> None:
    if rules:
        written = [rule.as_schema() for rule in rules]
        schema["x-kubernetes-validations"] = [*schema.get("x-kubernetes-validations", []), *written]
