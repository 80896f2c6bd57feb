"""The CustomResourceDefinition of FineTuneJob, put together from the generated schemas."""

from __future__ import annotations

from finetune_api import GROUP, KIND, PLURAL, SHORT_NAME, SINGULAR, VERSION
from finetune_api.base import CelRule
from finetune_api.generate.changes import (
    Unchanged,
    immutability_rule,
    immutable_fields,
    settled_fields,
    settled_rule,
)
from finetune_api.generate.schema import Schema, structural_schema, without_annotations
from finetune_api.names import JOB_NAME_PATTERN, MAX_JOB_NAME_LENGTH
from finetune_api.spec import FineTuneJobSpec
from finetune_api.spec.dataset import SAME_REFERENCES
from finetune_api.status import FineTuneJobStatus

CRD_NAME = f"{PLURAL}.{GROUP}"

_NAME_RULE = CelRule(
    f"self.metadata.name.matches(r'{JOB_NAME_PATTERN}') && self.metadata.name.size() <= {MAX_JOB_NAME_LENGTH}",
    f"metadata.name must start with a letter, hold only lower-case letters, digits and '-', and have at most "
    f"{MAX_JOB_NAME_LENGTH} characters: names of pods are derived from it",
)

_PRINTER_COLUMNS: tuple[tuple[str, str, str, int], ...] = (
    ("Phase", "string", ".status.phase", 0),
    ("Model", "string", ".status.display.model", 0),
    ("Method", "string", ".spec.method.type", 0),
    ("GPUs", "string", ".status.display.gpus", 0),
    ("Step", "string", ".status.display.step", 0),
    ("Loss", "string", ".status.display.loss", 0),
    ("ETA", "string", ".status.display.eta", 0),
    ("Age", "date", ".metadata.creationTimestamp", 0),
    ("Reason", "string", ".status.reason", 1),
    ("Restarts", "integer", ".status.restarts", 1),
    ("Checkpoint", "integer", ".status.checkpoint.step", 1),
    ("Queue", "string", ".spec.queueName", 1),
    ("Output", "string", ".spec.output.uri", 1),
)


def build_crd() -> Schema:
    """The CRD as a plain object, ready to be written as YAML."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": CRD_NAME},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": SINGULAR,
                "shortNames": [SHORT_NAME],
                "categories": ["all", "ai"],
            },
            "scope": "Namespaced",
            "versions": [_version()],
        },
    }


def _version() -> Schema:
    return {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": [
            {"name": name, "type": type_, "jsonPath": path, **({"priority": priority} if priority else {})}
            for name, type_, path, priority in _PRINTER_COLUMNS
        ],
        "selectableFields": [{"jsonPath": ".status.phase"}],
        "schema": {"openAPIV3Schema": without_annotations(build_root_schema())},
    }


def build_root_schema() -> Schema:
    """The schema of a FineTuneJob, with what only the field reference shows."""
    return {
        "type": "object",
        "description": "FineTuneJob fine-tunes a language model on your data and leaves the verified result in "
        "object storage.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": {
                **structural_schema(FineTuneJobSpec),
                "description": "spec says what is fine-tuned, on what, how, and where the result goes.",
            },
            "status": {
                **_status_schema(),
                "description": "status is what the operator observed.",
            },
        },
        "x-kubernetes-validations": [rule.as_schema() for rule in _root_rules()],
    }


def _root_rules() -> tuple[CelRule, ...]:
    references = (Unchanged(field, is_same) for field, is_same in SAME_REFERENCES)
    return (
        _NAME_RULE,
        immutability_rule(immutable_fields(FineTuneJobSpec)),
        settled_rule((*settled_fields(FineTuneJobSpec), *references)),
    )


def _status_schema() -> Schema:
    schema = structural_schema(FineTuneJobStatus)
    schema["properties"]["conditions"].update(
        {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
    )
    return schema
