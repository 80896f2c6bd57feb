"""Decides how long rows may be: what the job says, else what any model has room for."""

from __future__ import annotations

from finetune_api.spec import Preparation
from finetune_api.spec.preparation import DEFAULT_MAX_LENGTH

# Room for what is generated after the prompt, where the whole context is no longer than the default.
_SHARE_OF_CONTEXT = 0.8


def decide_max_length(preparation: Preparation, context_length: int | None) -> int:
    """The longest row in tokens."""
    if preparation.max_length is not None:
        return preparation.max_length
    if context_length is None:
        return DEFAULT_MAX_LENGTH
    return min(DEFAULT_MAX_LENGTH, int(context_length * _SHARE_OF_CONTEXT))
