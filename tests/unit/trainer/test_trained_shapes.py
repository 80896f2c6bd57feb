"""How many parameters each method trains, and in which tensors: what peft makes of a real model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    AdaLoraConfig,
    IA3Config,
    LoraConfig,
    PeftConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
)
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from finetune_api.spec import Method, Task
from finetune_trainer.adapter_config import refuse_other_tensors
from finetune_trainer.model_folder import ModelConfig
from finetune_trainer.model_layers import ModelLayers, read_layers
from finetune_trainer.safetensors_header import TensorInfo
from finetune_trainer.target_modules import decide_trained_modules
from finetune_trainer.trained_shapes import ModelWidths, adapter_tensors, count_trainable
from tests.builders.tiny_models import make_config

LABELS = 3
RANK_STEPS = {"total_step": 10, "tinit": 1, "tfinal": 2}
CASES: dict[str, tuple[dict[str, Any], PeftConfig | None]] = {
    "LoRA": (
        {"type": "LoRA", "lora": {"rank": 4, "targetModules": ["q_proj", "down_proj"]}},
        LoraConfig(r=4, target_modules=["q_proj", "down_proj"]),
    ),
    "LoRA on embedding and head": (
        {"type": "LoRA", "lora": {"rank": 4, "targetModules": ["embed_tokens", "lm_head"]}},
        LoraConfig(r=4, target_modules=["embed_tokens", "lm_head"]),
    ),
    "DoRA": (
        {"type": "LoRA", "lora": {"rank": 4, "targetModules": ["k_proj"], "variant": "DoRA"}},
        LoraConfig(r=4, target_modules=["k_proj"], use_dora=True),
    ),
    "LoRA beside whole modules": (
        {
            "type": "LoRA",
            "lora": {"rank": 4, "targetModules": ["q_proj"], "fullyTrainedModules": ["mlp", "lm_head"]},
        },
        LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["mlp", "lm_head"]),
    ),
    "AdaLoRA": (
        {"type": "AdaLoRA", "adaLora": {"initialRank": 4, "targetModules": ["q_proj"], "targetRank": 2}},
        AdaLoraConfig(init_r=4, target_r=2, target_modules=["q_proj"], **RANK_STEPS),
    ),
    "IA3": (
        {"type": "IA3"},
        IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]),
    ),
    "prefix tuning": (
        {"type": "PrefixTuning", "prefixTuning": {"virtualTokens": 5}},
        PrefixTuningConfig(num_virtual_tokens=5),
    ),
    "prefix tuning through a projection": (
        {"type": "PrefixTuning", "prefixTuning": {"virtualTokens": 5, "projection": True}},
        PrefixTuningConfig(num_virtual_tokens=5, prefix_projection=True, encoder_hidden_size=64),
    ),
    "prompt tuning": (
        {"type": "PromptTuning", "promptTuning": {"virtualTokens": 5}},
        PromptTuningConfig(num_virtual_tokens=5),
    ),
    "full training": ({"type": "Full"}, None),
}  # fmt: skip


def make_model(task: Task) -> PreTrainedModel:
    torch.manual_seed(0)
    if task is Task.CAUSAL_LM:
        causal: PreTrainedModel = AutoModelForCausalLM.from_config(make_config())
        return causal
    config = make_config(num_labels=LABELS, pad_token_id=0)
    classifier: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)
    return classifier


def describe(model: PreTrainedModel) -> tuple[ModelLayers, ModelWidths]:
    """What the headers and config.json of the causal model say: its tied head is not in the file."""
    tensors = {
        name: TensorInfo(dtype="F32", shape=tuple(tensor.shape), data_offsets=(0, 0))
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }
    config = ModelConfig.model_validate(model.config.to_dict())
    widths = ModelWidths(config.num_hidden_layers, config.hidden_size, config.key_value_size)
    return read_layers("model", tensors, tied_embeddings=True), widths


# A classifier has no output head to adapt.
COUNTED = [
    (case, task)
    for case in CASES
    for task in Task
    if task is Task.CAUSAL_LM or "head" not in str(CASES[case][0])
]


@pytest.mark.parametrize(("case", "task"), COUNTED)
def test_count_is_that_of_peft(case: str, task: Task) -> None:
    settings, config = CASES[case]
    method, model = Method.model_validate(settings), make_model(task)
    layers, widths = describe(make_model(Task.CAUSAL_LM))
    if config is not None:
        config.task_type = "CAUSAL_LM" if task is Task.CAUSAL_LM else "SEQ_CLS"
        model = get_peft_model(model, config)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)

    modules = decide_trained_modules(method, task, layers)
    label_count = 0 if task is Task.CAUSAL_LM else LABELS
    assert count_trainable(method, modules, layers, widths, label_count) == trained


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case][1] is not None])
def test_tensors_of_an_adapter_that_peft_saved_are_those_expected(case: str, tmp_path: Path) -> None:
    settings, config = CASES[case]
    assert config is not None
    config.task_type = "CAUSAL_LM"
    adapted = get_peft_model(make_model(Task.CAUSAL_LM), config)
    adapted.save_pretrained(tmp_path, save_embedding_layers=False)
    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as file:
        found = {
            name: TensorInfo(dtype="F32", shape=tuple(file.get_slice(name).get_shape()), data_offsets=(0, 0))
            for name in file.keys()  # noqa: SIM118 (no mapping)
        }
    method = Method.model_validate(settings)
    layers, widths = describe(make_model(Task.CAUSAL_LM))
    expected = adapter_tensors(method, decide_trained_modules(method, Task.CAUSAL_LM, layers), widths)
    assert expected
    refuse_other_tensors("s3://models/a", method, expected, found)
