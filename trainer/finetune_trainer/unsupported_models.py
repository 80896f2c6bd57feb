"""Models whose mathematics training would silently get wrong: refused from what their files declare. Pure.

Training computes attention row by row and the loss chunk by chunk, both without what these models do in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic import JsonValue

from finetune_api.spec import MethodType, Task
from finetune_trainer.errors import UserError

# model_type of the dense models of transformers 5.23 whose packed rows give what each row gives alone: shown by a test
# for each. Others do not tell their attention where rows end (BLOOM, Falcon, GPT-J, StableLM …), carry state from token
# to token (Mamba and its kin), or are not there yet.
TRAINED_MODEL_TYPES = frozenset(
    {
        "apertus",
        "arcee",
        "cwm",
        "diffllama",
        "ernie4_5",
        "exaone4",
        "gemma",
        "gemma3_text",
        "glm",
        "glm4",
        "gpt2",
        "gpt_bigcode",
        "gpt_neox",
        "granite",
        "helium",
        "hunyuan_v1_dense",
        "hyperclovax",
        "jais2",
        "llama",
        "ministral",
        "ministral3",
        "mistral",
        "olmo",
        "olmo2",
        "olmo3",
        "opt",
        "persimmon",
        "phi",
        "phi3",
        "qwen2",
        "qwen3",
        "seed_oss",
        "smollm3",
        "starcoder2",
    }
)
# Of these, those for which transformers has no …ForSequenceClassification.
UNCLASSIFYING_MODEL_TYPES = frozenset({"apertus", "cwm", "ernie4_5", "granite", "hyperclovax", "jais2"})
# Their linear layers keep the weight as [inputs, outputs] (Conv1D), which bitsandbytes does not quantize and merging
# does not expect.
TRANSPOSED_MODEL_TYPES = frozenset({"gpt2"})
_TRANSPOSED_METHODS = frozenset({MethodType.FULL, MethodType.PREFIX_TUNING, MethodType.PROMPT_TUNING})

# Keys of config.json, the values that change nothing, and what any other value asks for.
_LOGIT_SETTINGS: dict[str, tuple[tuple[JsonValue, ...], str]] = {
    "attn_logit_softcapping": ((None,), "soft-capped attention logits"),
    "final_logit_softcapping": ((None,), "soft-capped output logits"),
    "logit_scale": ((None, 1), "scaled output logits"),
    "logits_scaling": ((None, 1), "scaled output logits"),
    "lm_head_multiplier": ((None, 1), "scaled output logits"),
}
_SINKS_SUFFIX = ".sinks"


def refuse_unproven_type(uri: str, model_type: str) -> None:
    """Raise UserError for a kind of model that has not been shown to be trained right."""
    if model_type not in TRAINED_MODEL_TYPES:
        raise UserError(
            f"config.json of {uri} names the model_type {model_type or 'nothing'}, which is not trained yet: it is a "
            "mixture of experts, keeps state from token to token, or does not tell its attention where rows end. Set "
            f"spec.model.source to a model of one of these types: {', '.join(sorted(TRAINED_MODEL_TYPES))}."
        )


def refuse_unfitting_type(uri: str, model_type: str, task: Task, method: MethodType) -> None:
    """Raise UserError for a kind of model that this task or this method cannot be done with."""
    if task is Task.SEQUENCE_CLASSIFICATION and model_type in UNCLASSIFYING_MODEL_TYPES:
        raise UserError(
            f"task SequenceClassification: transformers has no such head for the model at {uri} (model_type "
            f"{model_type}). Set spec.model.source to a model such as Qwen, Llama or Mistral, or task: CausalLM."
        )
    if method not in _TRANSPOSED_METHODS and model_type in TRANSPOSED_MODEL_TYPES:
        raise UserError(
            f"method.type {method.value}: the linear layers of the model at {uri} (model_type {model_type}) are kept "
            "transposed (Conv1D), for which adapters are not done. Set method.type: Full, PrefixTuning or "
            "PromptTuning, or spec.model.source to a model such as Qwen, Llama or Mistral."
        )


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
