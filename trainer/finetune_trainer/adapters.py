"""The adapter: made by peft, saved and restored in peft's own format.

Adapter files written here are byte-equal for equal weights, so that equal runs have equal digests.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from finetune_api.spec import LoRA

ADAPTER_WEIGHTS_NAME = "adapter_model.safetensors"
ADAPTER_CONFIG_NAME = "adapter_config.json"
# One key, so that the header is the same in every run.
SAFETENSORS_METADATA = {"format": "pt"}


def add_adapter(
    model: PreTrainedModel, lora: LoRA, target_modules: Sequence[str], model_source: str
) -> PeftModel:
    """Wrap the frozen base with a LoRA adapter on these linear layers, its parameters fp32."""
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=_whole_if_possible(lora.alpha),
        lora_dropout=lora.dropout,
        target_modules=list(target_modules),
        bias="none",
    )
    adapted = cast(PeftModel, get_peft_model(model, config, autocast_adapter_dtype=True))
    # peft puts the local folder here; whoever loads the adapter wants to know where the base model came from.
    adapted.peft_config["default"].base_model_name_or_path = model_source
    return adapted


def save_adapter(model: PeftModel, directory: Path) -> None:
    """Write adapter_model.safetensors and adapter_config.json as `PeftModel.from_pretrained` reads them."""
    directory.mkdir(parents=True, exist_ok=True)
    weights = {
        name: tensor.detach().to("cpu").contiguous() for name, tensor in adapter_weights(model).items()
    }
    save_file(dict(sorted(weights.items())), directory / ADAPTER_WEIGHTS_NAME, metadata=SAFETENSORS_METADATA)
    config = _config_for_inference(model)
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False)
    (directory / ADAPTER_CONFIG_NAME).write_text(text + "\n", encoding="utf-8")


def restore_adapter(model: PeftModel, directory: Path) -> None:
    """Load the weights of a saved adapter into the model's own."""
    weights = load_file(directory / ADAPTER_WEIGHTS_NAME)
    expected = adapter_weights(model)
    assert weights.keys() == expected.keys(), "a checkpoint of this run has this run's parameters"
    set_peft_model_state_dict(model, weights)


def adapter_weights(model: PeftModel) -> dict[str, torch.Tensor]:
    """The adapter's parameters under peft's file names."""
    # save_embedding_layers=False: peft would otherwise look the base model up on the hub.
    return dict(get_peft_model_state_dict(model, save_embedding_layers=False))


def _config_for_inference(model: PeftModel) -> dict[str, object]:
    config = dict(model.peft_config["default"].to_dict())
    config["inference_mode"] = True
    return {
        key: sorted(value) if isinstance(value, set | frozenset) else value for key, value in config.items()
    }


def _whole_if_possible(alpha: float) -> float:
    # peft's files carry whole numbers as integers; some readers insist on it.
    return int(alpha) if alpha == int(alpha) else alpha
