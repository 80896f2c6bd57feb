"""The digest of what a child Job is made from.

An attempt that has not started and was made from another spec is replaced.
"""

from __future__ import annotations

import hashlib

from finetune_api.spec import FineTuneJobSpec

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
    text = spec.model_dump_json(exclude=set(_NOT_IN_CHILDREN), exclude_defaults=True)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]
