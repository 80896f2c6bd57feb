"""A FineTuneJob as the operator holds it: the object of the API, parsed once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from pydantic import ValidationError

from finetune_api import names
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import ConditionStatus, ConditionType, FineTuneJobStatus
from finetune_operator.default_output import DefaultStore, resolve_output
from finetune_operator.kubernetes_objects import JsonObject, ObjectMeta
from finetune_operator.times import utc_now

MAX_PROBLEMS_TOLD = 3
# It holds the whole spec once more, and nobody passes it on.
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


@dataclass(frozen=True, order=True)
class JobKey:
    """What the work queue is keyed by."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True)
class InstallationRules:
    """What the administrator decided about every job's spec."""

    default_store: DefaultStore | None = None
    trust_remote_code: bool = False


NO_RULES = InstallationRules()


class UnreadableStatus(Exception):
    """The status was written by another version of the operator; acting on a guess could run a finished job again."""


@dataclass(frozen=True)
class FineTuneJob:
    """One FineTuneJob. Exactly one of `spec` and `problem` is set."""

    key: JobKey
    uid: str
    generation: int
    resource_version: str
    created: datetime
    deleting: bool
    spec: FineTuneJobSpec | None
    problem: str | None
    status: FineTuneJobStatus
    finalizers: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    # spec.output was left out, and the installation's default stands in its place.
    has_default_output: bool = False

    @property
    def name(self) -> str:
        """metadata.name."""
        return self.key.name

    @property
    def namespace(self) -> str:
        """metadata.namespace."""
        return self.key.namespace

    def with_status(self, status: FineTuneJobStatus) -> FineTuneJob:
        """The same job with another status."""
        return replace(self, status=status)


def parse_job(body: JsonObject, rules: InstallationRules = NO_RULES) -> FineTuneJob:
    """Parse a FineTuneJob; a spec that does not parse becomes its `problem`, so that only this job fails.

    Raises UnreadableStatus.
    """
    metadata = ObjectMeta.model_validate(body["metadata"])
    raw = resolve_output(
        body.get("spec"), metadata.namespace, metadata.name, rules.default_store, body.get("status")
    )
    spec, problem = _parse_spec(metadata.name, raw, rules)
    return FineTuneJob(
        key=JobKey(metadata.namespace, metadata.name),
        uid=metadata.uid,
        generation=metadata.generation,
        resource_version=metadata.resource_version,
        created=metadata.creation_timestamp or utc_now(),
        deleting=metadata.deletion_timestamp is not None,
        spec=spec,
        problem=problem,
        status=_parse_status(body.get("status")),
        finalizers=metadata.finalizers,
        labels=metadata.labels,
        annotations={key: value for key, value in metadata.annotations.items() if key != _LAST_APPLIED},
        has_default_output=raw is not body.get("spec"),
    )


def is_settled(body: JsonObject) -> bool:
    """Whether a raw FineTuneJob has ended and its status is about the spec it has now. Cheap: nothing is parsed."""
    status, metadata = body.get("status") or {}, body["metadata"]
    if status.get("observedGeneration") != metadata.get("generation"):
        return False
    if metadata.get("deletionTimestamp") and names.FINALIZER in metadata.get("finalizers", ()):
        return False
    return any(
        condition.get("type") == ConditionType.FINISHED and condition.get("status") == ConditionStatus.TRUE
        for condition in status.get("conditions", ())
    )


def _parse_spec(
    name: str, raw: object, rules: InstallationRules
) -> tuple[FineTuneJobSpec | None, str | None]:
    too_long = len(name) > names.MAX_JOB_NAME_LENGTH
    if too_long or not re.match(names.JOB_NAME_PATTERN, name):
        return None, (
            f"metadata.name {name!r} must match {names.JOB_NAME_PATTERN} and have at most "
            f"{names.MAX_JOB_NAME_LENGTH} characters, because pods are named after it. "
            "Create the job under another name."
        )
    if isinstance(raw, Mapping) and not raw.get("output"):
        return None, (
            "spec.output is left out, and this installation has no default store. Set spec.output.uri and "
            "spec.output.store, or ask the administrator for one (the chart's defaultStore)."
        )
    try:
        spec = FineTuneJobSpec.model_validate(raw)
    except ValidationError as error:
        return None, describe_problems(error)
    problem = _find_forbidden(spec, rules)
    return (None, problem) if problem else (spec, None)


def _find_forbidden(spec: FineTuneJobSpec, rules: InstallationRules) -> str | None:
    """What the installation does not allow, as a sentence."""
    if spec.model.trust_remote_code and not rules.trust_remote_code:
        return (
            "spec.model.trustRemoteCode is true, which this installation does not allow. Remove it, or ask the "
            "administrator (the chart's trainer.trustRemoteCode)."
        )
    return None


def _parse_status(status: object) -> FineTuneJobStatus:
    try:
        return FineTuneJobStatus.model_validate(status or {})
    except ValidationError as error:
        raise UnreadableStatus(str(error)) from error


def describe_problems(error: ValidationError) -> str:
    """Write pydantic's findings as a sentence that names the fields as users know them."""
    problems = [
        f"{'.'.join(['spec', *map(str, problem['loc'])])}: {problem['msg']}"
        for problem in error.errors(include_url=False, include_context=False)
    ]
    told = "; ".join(problems[:MAX_PROBLEMS_TOLD])
    more = len(problems) - MAX_PROBLEMS_TOLD
    return f"{told}{f'; and {more} more' if more > 0 else ''}. Correct the spec and apply it again."
