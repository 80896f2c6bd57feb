"""A pydantic model → a structural OpenAPI v3 schema, as CustomResourceDefinitions want it.

Kubernetes allows less than JSON Schema: no $ref, no null unions, no patternProperties, no additionalProperties
beside properties. Source: "Structural schemas" in the Kubernetes CRD documentation.
"""

from __future__ import annotations

from typing import Any, TypeAlias, get_args

from pydantic import BaseModel

from finetune_api.base import ApiModel, CelRule

Schema: TypeAlias = dict[str, Any]

_DROPPED = (
    "title",
    "additionalProperties",
    "propertyNames",
    "patternProperties",
    "const",
    "examples",
    "x-message",
)


def structural_schema(model: type[ApiModel]) -> Schema:
    """The schema of `model`, self-contained, with defaults, bounds and CEL rules."""
    return _object_schema(model, model.model_json_schema(by_alias=True, mode="validation"))


def _object_schema(model: type[ApiModel], root: Schema) -> Schema:
    definitions = root.get("$defs", {})
    models = _models_by_name(model)
    return _convert(root, definitions, models, models.get(root.get("title", "")))


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


def _convert(
    schema: Schema, definitions: Schema, models: dict[str, type[ApiModel]], model: type[ApiModel] | None
) -> Schema:
    schema, model = _resolved(schema, definitions, models, model)
    result: Schema = {}
    for key, value in schema.items():
        if key == "properties":
            result[key] = {
                name: _property(_convert(child, definitions, models, None), model, name)
                for name, child in value.items()
            }
        elif key == "items":
            result[key] = _convert(value, definitions, models, None)
        elif key not in _DROPPED and key != "$defs":
            result[key] = value
    _convert_map(schema, result, definitions, models)
    _convert_exclusive_bounds(result)
    _convert_pattern(schema, result)
    if model is not None:
        _add_rules(result, _rules_of(model))
    if result.get("type") == "integer":
        result.setdefault("format", "int64")
    return dict(sorted(result.items()))


def _resolved(
    schema: Schema, definitions: Schema, models: dict[str, type[ApiModel]], model: type[ApiModel] | None
) -> tuple[Schema, type[ApiModel] | None]:
    """`schema` with references and null unions replaced by what they stand for; siblings such as description win."""
    while True:
        siblings = {key: value for key, value in schema.items() if key not in ("$ref", "anyOf", "allOf")}
        if "$ref" in schema:
            name = schema["$ref"].rsplit("/", 1)[1]
            model = models.get(name)
            schema = {**definitions[name], **siblings}
        elif "anyOf" in schema and "x-kubernetes-int-or-string" not in schema:
            (only,) = [option for option in schema["anyOf"] if option.get("type") != "null"]
            if siblings.get("default", ...) is None:
                del siblings["default"]
            schema = {**only, **siblings}
        else:
            return schema, model


def _property(schema: Schema, model: type[ApiModel] | None, name: str) -> Schema:
    """Gives a block its default: `{}` when every field keeps its own default, so that defaults stand in one place."""
    if model is None:
        return schema
    field = next(f for key, f in model.model_fields.items() if (f.alias or key) == name)
    if isinstance(field.default, BaseModel):
        schema["default"] = _differences_from_defaults(field.default)
    return schema


def _differences_from_defaults(value: BaseModel) -> Schema:
    dumped = value.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return {key: item for key, item in dumped.items() if item is not None}


def _convert_map(
    schema: Schema, result: Schema, definitions: Schema, models: dict[str, type[ApiModel]]
) -> None:
    """A dict field: values keep their schema; what the keys must look like becomes a CEL rule."""
    if schema.get("type") != "object" or "properties" in schema:
        return
    patterns = schema.get("patternProperties", {})
    if patterns:
        ((key_pattern, value_schema),) = patterns.items()
    else:
        key_pattern = schema.get("propertyNames", {}).get("pattern")
        value_schema = schema.get("additionalProperties")
    if isinstance(value_schema, dict) and value_schema:
        result["additionalProperties"] = _convert(value_schema, definitions, models, None)
    if key_pattern:
        rule = CelRule(f"self.all(key, key.matches(r'{key_pattern}'))", "keys must be qualified label names")
        _add_rules(result, (rule,))


def _convert_exclusive_bounds(result: Schema) -> None:
    """JSON Schema's numeric exclusiveMinimum is a boolean beside minimum in OpenAPI 3.0."""
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        value = result.get(exclusive)
        if value is not None and not isinstance(value, bool):
            result[bound], result[exclusive] = value, True


def _convert_pattern(schema: Schema, result: Schema) -> None:
    """A pattern with a sentence of ours becomes a CEL rule: the API server's own message only quotes the expression."""
    message = schema.get("x-message")
    if message and "pattern" in result:
        _add_rules(result, (CelRule(f"self.matches(r'{result.pop('pattern')}')", message),))


def _rules_of(model: type[ApiModel]) -> tuple[CelRule, ...]:
    return (*model.cel_rules, *(_immutability(model, name) for name in model.immutable_fields))


def _immutability(model: type[ApiModel], name: str) -> CelRule:
    field = model.model_fields[name]
    wire_name = field.alias or name
    same = f"self.{wire_name} == oldSelf.{wire_name}"
    if field.default is None:
        # `self == oldSelf` on an optional field is skipped when the field comes or goes: guard from the parent.
        same = f"has(self.{wire_name}) == has(oldSelf.{wire_name}) && (!has(self.{wire_name}) || {same})"
    return CelRule(
        same,
        f"{wire_name} is immutable: it defines the run; create another FineTuneJob, or delete and re-apply this one",
    )


def _add_rules(schema: Schema, rules: tuple[CelRule, ...]) -> None:
    if rules:
        written = [{"rule": rule.rule, "message": rule.message} for rule in rules]
        schema["x-kubernetes-validations"] = [*schema.get("x-kubernetes-validations", []), *written]
