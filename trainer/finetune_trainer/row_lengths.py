"""Decides how long rows may be: what the job says, if the model can read it, else what any model has room for."""

from __future__ import annotations

from finetune_api.spec import Method, MethodType, Preparation
from finetune_api.spec.preparation import DEFAULT_MAX_LENGTH
from finetune_trainer.errors import UserError

# Room for what is generated after the prompt, where the whole context is no longer than the default.
_SHARE_OF_CONTEXT = 0.8
# A token that is read and one that is learned.
_SHORTEST_ROOM = 2


def count_virtual_tokens(method: Method) -> int:
    """Places of the model's context that the method takes before each row."""
    if method.type is MethodType.PREFIX_TUNING:
        return method.prefix_tuning.virtual_tokens
    if method.type is MethodType.PROMPT_TUNING:
        return method.prompt_tuning.virtual_tokens
    return 0


def decide_max_length(preparation: Preparation, context_length: int | None, virtual_tokens: int = 0) -> int:
    """The longest row in tokens, without virtual tokens."""
    if preparation.max_length is not None:
        return preparation.max_length
    if context_length is None:
        return DEFAULT_MAX_LENGTH
    return min(DEFAULT_MAX_LENGTH, int((context_length - virtual_tokens) * _SHARE_OF_CONTEXT))


def refuse_long_rows(context_length: int | None, max_length: int, virtual_tokens: int = 0) -> None:
    """Raise UserError where rows, with the virtual tokens before them, would be longer than the model's context."""
    if context_length is None:
        return
    room = context_length - virtual_tokens
    if room < _SHORTEST_ROOM:
        raise UserError(
            f"The {virtual_tokens} virtualTokens of the method leave no room for a row in the model's context of "
            f"{context_length} tokens. Set fewer virtualTokens."
        )
    if max_length > room:
        what = (
            f" and the {virtual_tokens} virtualTokens of the method together are" if virtual_tokens else " is"
        )
        fewer = ", or fewer virtualTokens" if virtual_tokens else ""
        raise UserError(
            f"dataset.preparation.maxLength {max_length}{what} longer than the model's context of {context_length} "
            f"tokens. Set maxLength to at most {room}{fewer}."
        )
