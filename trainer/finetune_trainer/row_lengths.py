"""Decides how long rows may be: what the job says, if the model can read it, else what any model has room for."""

from __future__ import annotations

from finetune_api.spec import Preparation
from finetune_api.spec.preparation import DEFAULT_MAX_LENGTH
from finetune_trainer.errors import UserError

# Room for what is generated after the prompt, where the whole context is no longer than the default.
_SHARE_OF_CONTEXT = 0.8


def decide_max_length(preparation: Preparation, context_length: int | None) -> int:
    """The longest row in tokens."""
    if preparation.max_length is not None:
        return preparation.max_length
    if context_length is None:
        return DEFAULT_MAX_LENGTH
    return min(DEFAULT_MAX_LENGTH, int(context_length * _SHARE_OF_CONTEXT))


def refuse_long_rows(context_length: int | None, max_length: int) -> None:
    """Raise UserError where rows would be longer than the model's context."""
    if context_length is not None and max_length > context_length:
        raise UserError(
            f"dataset.preparation.maxLength {max_length} is longer than the model's context of {context_length} "
            f"tokens. Set maxLength to at most {context_length}."
        )
