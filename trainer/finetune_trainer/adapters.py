"""The adapter: made by peft, saved and restored in peft's own format.

Adapter files written here are byte-equal for equal weights, so that equal runs have equal digests.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from peft import (
    AdaLoraConfig,
    IA3Config,
    LoraConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    PromptTuningInit,
    TaskType,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.utils.integrations import dequantize_module_weight
from pydantic import JsonValue
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from finetune_api.spec import LoRA, LoRAVariant, Method, MethodType, PromptInit, Task
from finetune_trainer.run_file import MethodFacts

ADAPTER_WEIGHTS_NAME = "adapter_model.safetensors"
ADAPTER_CONFIG_NAME = "adapter_config.json"
# One key, so that the header is the same in every run.
SAFETENSORS_METADATA = {"format": "pt"}
_ADAPTER_NAME = "default"
_TASK_TYPES = {Task.CAUSAL_LM: TaskType.CAUSAL_LM, Task.SEQUENCE_CLASSIFICATION: TaskType.SEQ_CLS}
_PROMPT_INITS = {
    PromptInit.RANDOM: PromptTuningInit.RANDOM,
    PromptInit.VOCABULARY: PromptTuningInit.SAMPLE_VOCAB,
    PromptInit.TEXT: PromptTuningInit.TEXT,
}
# Where the run's own folders stood on the machine that trained.
_LOCAL_KEYS = ("tokenizer_name_or_path", "tokenizer_kwargs")


# --- settings --------------------------------------------------------------------------------------------------


def build_adapter_config(
    method: Method, facts: MethodFacts, task: Task, *, total_steps: int, tokenizer: Path
) -> PeftConfig | None:
    """Build peft's settings; None for Full, which has no adapter. `tokenizer` is the folder of the base model's."""
    task_type, targets = _TASK_TYPES[task], list(facts.target_modules)
    match method.type:
        case MethodType.LORA | MethodType.QLORA:
            return _lora_config(method.lora, facts, task_type)
        case MethodType.ADA_LORA:
            settings = method.ada_lora
            return AdaLoraConfig(
                task_type=task_type,
                init_r=settings.initial_rank,
                target_r=settings.target_rank,
                lora_alpha=_whole_if_possible(settings.alpha),
                lora_dropout=settings.dropout,
                target_modules=targets,
                tinit=facts.initial_steps,
                tfinal=facts.final_steps,
                deltaT=settings.interval_steps,
                beta1=settings.beta1,
                beta2=settings.beta2,
                orth_reg_weight=settings.orthogonal_weight,
                total_step=total_steps,
            )
        case MethodType.IA3:
            return IA3Config(
                task_type=task_type,
                target_modules=targets,
                feedforward_modules=list(facts.feedforward_modules),
            )
        case MethodType.PREFIX_TUNING:
            prefix = method.prefix_tuning
            return PrefixTuningConfig(
                task_type=task_type,
                num_virtual_tokens=prefix.virtual_tokens,
                prefix_projection=prefix.projection,
                encoder_hidden_size=prefix.projection_hidden_size,
            )
        case MethodType.PROMPT_TUNING:
            prompt = method.prompt_tuning
            words = {} if prompt.init is not PromptInit.TEXT else {"tokenizer_name_or_path": str(tokenizer)}
            return PromptTuningConfig(
                task_type=task_type,
                num_virtual_tokens=prompt.virtual_tokens,
                prompt_tuning_init=_PROMPT_INITS[prompt.init],
                prompt_tuning_init_text=prompt.init_text,
                **words,
            )
        case MethodType.FULL:
            return None


def _lora_config(lora: LoRA, facts: MethodFacts, task_type: TaskType) -> LoraConfig:
    return LoraConfig(
        task_type=task_type,
        r=lora.rank,
        lora_alpha=_whole_if_possible(lora.alpha),
        lora_dropout=lora.dropout,
        target_modules=list(facts.target_modules),
        modules_to_save=list(facts.fully_trained_modules) or None,
        use_rslora=lora.variant is LoRAVariant.RS_LORA,
        use_dora=lora.variant is LoRAVariant.DORA,
        bias="none",
    )


def _whole_if_possible(alpha: float) -> float:
    # peft's files carry whole numbers as integers; some readers insist on it.
    return int(alpha) if alpha == int(alpha) else alpha


# --- the model with its adapter --------------------------------------------------------------------------------


def add_adapter(model: PreTrainedModel, config: PeftConfig, model_source: str) -> PeftModel:
    """Wrap the frozen base with an adapter. What is trained is fp32, also what is trained whole."""
    if isinstance(config, PrefixTuningConfig) and config.encoder_hidden_size is None:
        # peft's own default is the width of keys, which is smaller where heads share them.
        config.encoder_hidden_size = model.config.hidden_size
    adapted = cast(PeftModel, get_peft_model(model, config, autocast_adapter_dtype=True))
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    _start_magnitudes(adapted)
    # peft puts the local folder here; whoever loads the adapter wants to know where the base model came from.
    adapted.peft_config[_ADAPTER_NAME].base_model_name_or_path = model_source
    return adapted


def _start_magnitudes(model: PeftModel) -> None:
    """Begin DoRA at the base: peft rounds the norms of a 16-bit layer, which would scale each of its rows."""
    for layer in model.modules():
        for magnitude in getattr(layer, "lora_magnitude_vector", {}).values():
            weight = dequantize_module_weight(layer.get_base_layer()).detach().float()
            norms = magnitude.get_weight_norm(weight, torch.zeros((), device=weight.device), 0.0)
            magnitude.weight.data.copy_(norms)


def load_adapter(model: PeftModel, directory: Path) -> None:
    """Begin from the weights of an earlier adapter, which prepare has compared with the job."""
    set_peft_model_state_dict(model, load_file(directory / ADAPTER_WEIGHTS_NAME))


def adapter_weights(
    model: PeftModel, trained: Mapping[str, torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    """The adapter's parameters under peft's file names; `trained` has them whole where the model does not."""
    state = None
    if trained is not None and not model.active_peft_config.is_prompt_learning:
        untrained = {
            name: tensor.detach() for name, tensor in model.named_parameters() if _is_adapters(name, trained)
        }
        state = {**untrained, **trained}
    # save_embedding_layers=False: peft would otherwise look the base model up on the hub.
    return dict(get_peft_model_state_dict(model, state_dict=state, save_embedding_layers=False))


def _is_adapters(name: str, trained: Mapping[str, torch.Tensor]) -> bool:
    return f".{_ADAPTER_NAME}" in name and name not in trained


# --- files -----------------------------------------------------------------------------------------------------


def save_adapter(
    model: PeftModel,
    directory: Path,
    trained: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write adapter_model.safetensors and adapter_config.json as `PeftModel.from_pretrained` reads them."""
    # In this order: AdaLoRA's settings learn from the weights which ranks are left.
    weights = adapter_weights(model, trained)
    write_adapter(directory, weights, config_for_inference(model))


def write_adapter(
    directory: Path, weights: Mapping[str, torch.Tensor], config: Mapping[str, JsonValue]
) -> None:
    """Write an adapter's two files."""
    directory.mkdir(parents=True, exist_ok=True)
    plain = {name: weights[name].detach().to("cpu").contiguous().clone() for name in sorted(weights)}
    save_file(plain, directory / ADAPTER_WEIGHTS_NAME, metadata=SAFETENSORS_METADATA)
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False)
    (directory / ADAPTER_CONFIG_NAME).write_text(text + "\n", encoding="utf-8")


def config_for_inference(model: PeftModel) -> dict[str, JsonValue]:
    """The settings as adapter_config.json holds them, without what is true on this machine alone."""
    config = dict(model.peft_config[_ADAPTER_NAME].to_dict())
    config["inference_mode"] = True
    for key in _LOCAL_KEYS:
        if key in config:
            config[key] = None
    if config.get("prompt_tuning_init") == PromptTuningInit.TEXT:
        # The words are in the weights now; peft would look for the tokenizer when the adapter is loaded.
        config |= {"prompt_tuning_init": PromptTuningInit.RANDOM, "prompt_tuning_init_text": None}
    return {key: _as_json(value) for key, value in config.items()}


def _as_json(value: object) -> JsonValue:
    plain = sorted(value) if isinstance(value, set | frozenset) else value
    return cast(JsonValue, plain)
