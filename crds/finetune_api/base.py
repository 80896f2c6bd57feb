"""The base of every API model, and what pydantic cannot say: CEL rules, and what may be changed when.

The CRD generator reads ``cel_rules`` and which fields may change when off the classes, and the keys named
here out of ``json_schema_extra``; the trainer and the CLI parse with the same classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, StringConstraints, WithJsonSchema
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict

# Keys of a field's json_schema_extra that steer the generator and stand in no schema.
# The sentence that answers a value outside the field's pattern.
MESSAGE_KEY = "x-message"
# The field may be left out at the API server although the models require it: the operator fills it in.
OPTIONAL_KEY = "x-optional"
# The default is not written into stored objects, so that a rule can tell a value that was set from one that was not.
UNWRITTEN_KEY = "x-unwritten-default"

OPTIONAL: JsonDict = {OPTIONAL_KEY: True}
UNWRITTEN: JsonDict = {UNWRITTEN_KEY: True}


@dataclass(frozen=True)
class CelRule:
    """A rule the API server evaluates on this object (``self``): two fields make it together.

    ``message`` names both fields and the way out. Source: x-kubernetes-validations of the CRD schema.
    """

    rule: str
    message: str
    message_expression: str = ""
    """CEL that makes the message; `message` is told where it cannot be evaluated."""
    field_path: str = ""
    """Which field, from here, the API server names; none: this object."""

    def as_schema(self) -> dict[str, str]:
        """The rule as the schema holds it."""
        optional = {"messageExpression": self.message_expression, "fieldPath": self.field_path}
        return {
            "rule": self.rule,
            "message": self.message,
            **{key: text for key, text in optional.items() if text},
        }


class ApiModel(BaseModel):
    """A block of the API: camelCase on the wire, frozen in memory, unknown fields refused.

    ``immutable_fields`` never change; ``settled_fields`` change only while nothing runs that was made from them.
    ``unchanged_rules`` say what counts as unchanged, for immutable fields of which a part may change: functions from
    the block's path (``.spec.dataset``) to CEL on the resource's root.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
    )

    cel_rules: ClassVar[tuple[CelRule, ...]] = ()
    immutable_fields: ClassVar[tuple[str, ...]] = ()
    settled_fields: ClassVar[tuple[str, ...]] = ()
    unchanged_rules: ClassVar[Mapping[str, Callable[[str], str]]] = {}


def _number_to_text(value: object) -> object:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if is_number else value


QUANTITY_PATTERN = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"
# People write `cpu: 2` as readily as `cpu: "2"`; Kubernetes accepts both, and so do we.
Quantity = Annotated[
    str,
    BeforeValidator(_number_to_text),
    StringConstraints(pattern=QUANTITY_PATTERN, max_length=32),
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "x-kubernetes-int-or-string": True,
            "minimum": 0,
            "pattern": QUANTITY_PATTERN,
            "maxLength": 32,
        }
    ),
]

AUTO = "Auto"


def auto_to_none(value: object) -> object:
    """`Auto` means what a missing value means; a number is what was always stored."""
    return None if value == AUTO else value


def auto_or_integer_schema(minimum: int, maximum: int) -> dict[str, object]:
    """Schema of a field that holds `Auto` or an integer between the bounds: a union that is structural."""
    return {
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "x-kubernetes-int-or-string": True,
        "minimum": minimum,
        "maximum": maximum,
        "maxLength": len(AUTO),
        "pattern": f"^{AUTO}$",
    }


DNS_LABEL_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
DNS_SUBDOMAIN_PATTERN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
ObjectName = Annotated[str, StringConstraints(pattern=DNS_SUBDOMAIN_PATTERN, min_length=1, max_length=253)]
# A bucket and a key prefix.
# What `..` in a key means is the reader's business: keys become file names in one place only.
S3_URI_PATTERN = r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^/\s]+)*/?$"
