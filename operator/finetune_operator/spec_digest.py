"""The digest of what a child Job is made from.

An attempt that has not started and was made from another spec is replaced.
"""

from __future__ import annotations

import hashlib

from finetune_api.spec import FineTuneJobSpec
from finetune_api.spec.preparation import DEFAULT_MAX_LENGTH

DIGEST_LENGTH = 16
# These steer the operator or hold from the next attempt on; a Job in a queue must not lose its place for them.
_NOT_IN_CHILDREN = frozenset(
    {
        "suspend",
        "retry",
        "stop_after",
        "failure_policy",
        "ttl_seconds_after_finished",
        "deletion_policy",
    }
)


def spec_digest(spec: FineTuneJobSpec) -> str:
    """Hexadecimal digest; equal for specs that make equal children. New fields do not change it until they are used."""
    text = _without_written_length(spec).model_dump_json(exclude=set(_NOT_IN_CHILDREN), exclude_defaults=True)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]


def _without_written_length(spec: FineTuneJobSpec) -> FineTuneJobSpec:
    """The spec without the maxLength that was once a default, which stored objects hold and older digests leave out."""
    dataset = spec.dataset
    if dataset.preparation.max_length != DEFAULT_MAX_LENGTH:
        return spec
    preparation = dataset.preparation.model_copy(update={"max_length": None})
    return spec.model_copy(update={"dataset": dataset.model_copy(update={"preparation": preparation})})
