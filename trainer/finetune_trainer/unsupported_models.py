"""Models whose mathematics training would silently get wrong: refused from what their files declare. Pure.

Training computes attention row by row and the loss chunk by chunk, both without what these models do in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic import JsonValue

from finetune_trainer.errors import UserError

# Keys of config.json, the values that change nothing, and what any other value asks for.
_LOGIT_SETTINGS: dict[str, tuple[tuple[JsonValue, ...], str]] = {
    "attn_logit_softcapping": ((None,), "soft-capped attention logits"),
    "final_logit_softcapping": ((None,), "soft-capped output logits"),
    "logit_scale": ((None, 1), "scaled output logits"),
    "logits_scaling": ((None, 1), "scaled output logits"),
    "lm_head_multiplier": ((None, 1), "scaled output logits"),
}
_SINKS_SUFFIX = ".sinks"


def refuse_unsupported_logits(uri: str, config: Mapping[str, JsonValue]) -> None:
    """Raise UserError for a model that changes its logits in a way that training does not compute."""
    for key, (harmless, what) in _LOGIT_SETTINGS.items():
        value = config.get(key)
        if value not in harmless:
            raise UserError(
                f"config.json of {uri} asks for {what} ({key} {value}), as Gemma 2 and Cohere's models do, which "
                "training does not compute yet. Set spec.model.source to a model without them, such as Qwen, Llama "
                "or Mistral."
            )


def refuse_attention_sinks(uri: str, tensor_names: Iterable[str]) -> None:
    """Raise UserError for a model whose attention has learned sinks."""
    sinks = next((name for name in tensor_names if name.endswith(_SINKS_SUFFIX)), None)
    if sinks is not None:
        raise UserError(
            f"The model at {uri} has attention sinks ({sinks}), which training does not compute yet. Set "
            "spec.model.source to a model without them, such as Qwen, Llama or Mistral."
        )
