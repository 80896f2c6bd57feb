"""A FineTuneJob as the operator holds it: the object of the API, parsed once."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime

from pydantic import ValidationError

from finetune_api import names
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import ConditionStatus, ConditionType, FineTuneJobStatus
from finetune_operator.kubernetes_objects import JsonObject, ObjectMeta
from finetune_operator.times import utc_now

MAX_PROBLEMS_TOLD = 3


@dataclass(frozen=True, order=True)
class JobKey:
    """What the work queue is keyed by."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


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


def parse_job(body: JsonObject) -> FineTuneJob:
    """Parse a FineTuneJob; a spec that does not parse becomes its `problem`, so that only this job fails.

    Raises UnreadableStatus.
    """
    metadata = ObjectMeta.model_validate(body["metadata"])
    spec, problem = _parse_spec(metadata.name, body.get("spec"))
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
    )


def is_settled(body: JsonObject) -> bool:
    """Whether a raw FineTuneJob has ended and its status is about the spec it has now. Cheap: nothing is parsed."""
    status = body.get("status") or {}
    if status.get("observedGeneration") != body["metadata"].get("generation"):
        return False
    return any(
        condition.get("type") == ConditionType.FINISHED and condition.get("status") == ConditionStatus.TRUE
        for condition in status.get("conditions", ())
    )


def _parse_spec(name: str, spec: object) -> tuple[FineTuneJobSpec | None, str | None]:
    too_long = len(name) > names.MAX_JOB_NAME_LENGTH
    if too_long or not re.match(names.JOB_NAME_PATTERN, name):
        return None, (
            f"metadata.name {name!r} must match {names.JOB_NAME_PATTERN} and have at most "
            f"{names.MAX_JOB_NAME_LENGTH} characters, because pods are named after it. "
            "Create the job under another name."
        )
    try:
        return FineTuneJobSpec.model_validate(spec), None
    except ValidationError as error:
        return None, describe_problems(error)


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
