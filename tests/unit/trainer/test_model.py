"""The base model in memory: number formats, which rows it takes, what is computed twice, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, set_seed

from finetune_api.spec import Method, MethodType, Precision, Switch, Task
from finetune_trainer.attention import PACKED_ATTENTION
from finetune_trainer.errors import UserError
from finetune_trainer.model import (
    BaseModelSettings,
    decide_precision,
    load_base_model,
    packs_rows,
    recomputes_activations,
)
from tests.builders.tiny_models import write_model
from tests.matrix.runner import make_spec
from tests.unit.trainer.small_trainer import CPU, FULL, LORA, load_tuned

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


# --- number formats ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "device", "method", "weights", "autocast"),
    [
        pytest.param(Precision.AUTO, "cuda", MethodType.LORA, BF16, BF16, id="Auto on a GPU"),
        pytest.param(Precision.AUTO, "cpu", MethodType.LORA, FP32, None, id="Auto on a CPU"),
        pytest.param(Precision.BF16, "cpu", MethodType.LORA, BF16, BF16, id="BF16 on a CPU"),
        pytest.param(Precision.FP16, "cuda", MethodType.LORA, FP16, FP16, id="FP16"),
        pytest.param(Precision.FP32, "cuda", MethodType.LORA, FP32, None, id="FP32 on a GPU"),
        pytest.param(Precision.BF16, "cuda", MethodType.FULL, FP32, BF16, id="Full keeps fp32 under BF16"),
        pytest.param(Precision.FP16, "cuda", MethodType.FULL, FP32, FP16, id="Full keeps fp32 under FP16"),
        pytest.param(Precision.AUTO, "cuda", MethodType.FULL, FP32, BF16, id="Full keeps fp32 under Auto"),
        pytest.param(Precision.BF16, "cuda", MethodType.QLORA, BF16, BF16, id="what QLoRA does not quantize"),
    ],
)
def test_number_formats_of_frozen_weights_and_of_computation(
    wanted: Precision, device: str, method: MethodType, weights: torch.dtype, autocast: torch.dtype | None
) -> None:
    precision = decide_precision(wanted, device, method)
    assert (precision.weights, precision.autocast) == (weights, autocast)
    assert precision.name == {BF16: "bf16", FP16: "fp16", None: "fp32"}[autocast]


@pytest.mark.parametrize(
    ("method", "frozen"), [(LORA, {BF16}), (FULL, set())], ids=["an adapter", "all weights"]
)
def test_what_is_trained_is_fp32_and_what_is_frozen_is_not(
    method: dict[str, Any], frozen: set[torch.dtype], tmp_path: Path
) -> None:
    write_model(tmp_path / "base", dtype=BF16)
    model = load_tuned(tmp_path / "base", make_spec(method=method, training__precision="BF16")).model
    assert {each.dtype for each in model.parameters() if each.requires_grad} == {FP32}
    assert {each.dtype for each in model.parameters() if not each.requires_grad} == frozen


# --- rows and activations ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", list(MethodType))
def test_rows_are_packed_unless_virtual_tokens_stand_before_each(method: MethodType) -> None:
    has_virtual_tokens = method in (MethodType.PREFIX_TUNING, MethodType.PROMPT_TUNING)
    settings = Method.model_validate({"type": method})
    assert packs_rows(settings, Switch.AUTO) is not has_virtual_tokens
    assert not packs_rows(settings, Switch.DISABLED)


@pytest.mark.parametrize(
    ("wanted", "method", "device", "is_tight", "expected"),
    [
        pytest.param("Auto", "LoRA", "cuda", True, True, id="Auto on a GPU that is short of memory"),
        pytest.param("Auto", "LoRA", "cuda", False, False, id="Auto on a GPU that is not"),
        pytest.param("Auto", "LoRA", "cpu", True, False, id="Auto on a CPU"),
        pytest.param("Auto", "PrefixTuning", "cuda", True, False, id="Auto, where the prefix would be lost"),
        pytest.param("Auto", "PromptTuning", "cuda", True, True, id="Auto with virtual tokens in the input"),
        pytest.param("Enabled", "LoRA", "cpu", False, True, id="asked for"),
        pytest.param("Disabled", "LoRA", "cuda", True, False, id="forbidden"),
    ],
)
def test_activations_are_computed_twice(
    wanted: str, method: str, device: str, is_tight: bool, expected: bool
) -> None:
    spec = make_spec(method={"type": method}, training__gradientCheckpointing=wanted)
    assert recomputes_activations(spec, device, is_tight=is_tight) is expected


@pytest.mark.parametrize(
    ("is_packed", "attention"), [(True, PACKED_ATTENTION), (False, "sdpa")], ids=["packed", "padded"]
)
def test_attention_is_that_of_the_rows_and_nothing_is_cached(
    is_packed: bool, attention: str, tmp_path: Path
) -> None:
    base = write_model(tmp_path / "base")
    settings = BaseModelSettings(weights=FP32, device=CPU, is_packed=is_packed, recomputes_activations=True)
    model = load_base_model(base, settings)
    assert model.config._attn_implementation == attention
    assert model.config.use_cache is False
    assert model.is_gradient_checkpointing


# --- the head of a classifier --------------------------------------------------------------------------------------


def load_classifier(base: Path, seed: int, weights: torch.dtype = FP32) -> torch.Tensor:
    set_seed(seed)
    settings = BaseModelSettings(
        weights=weights, device=CPU, task=Task.SEQUENCE_CLASSIFICATION, labels=("no", "yes", "maybe")
    )
    model = load_base_model(base, settings)
    assert model.config.id2label == {0: "no", 1: "yes", 2: "maybe"}
    assert model.config.label2id == {"no": 0, "yes": 1, "maybe": 2}
    head: torch.Tensor = model.score.weight.detach()
    return head


@pytest.mark.parametrize("weights", [FP32, BF16], ids=str)
def test_new_head_is_the_same_in_every_load_with_the_same_seed(weights: torch.dtype, tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    first, again, other = (load_classifier(base, seed, weights) for seed in (7, 7, 8))
    assert first.shape == (3, 64)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.std() > 0


# --- what is refused ---------------------------------------------------------------------------------------------


def load_plainly(base: Path, task: Task = Task.CAUSAL_LM) -> PreTrainedModel:
    labels = ("no", "yes") if task is Task.SEQUENCE_CLASSIFICATION else ()
    return load_base_model(base, BaseModelSettings(weights=FP32, device=CPU, task=task, labels=labels))


def rename_architecture(base: Path, architecture: str, model_type: str) -> None:
    path = base / "config.json"
    config = json.loads(path.read_text())
    config |= {"architectures": [architecture], "model_type": model_type, "head_dim": 16}
    path.write_text(json.dumps(config))


def drop_tensor(base: Path, name: str) -> None:
    path = base / "model.safetensors"
    tensors = load_file(path)
    del tensors[name]
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("task", "architecture"),
    [(Task.CAUSAL_LM, "Qwen3ForCausalLM"), (Task.SEQUENCE_CLASSIFICATION, "Qwen3ForSequenceClassification")],
    ids=["a language model", "a classifier"],
)
def test_weights_of_another_architecture_are_refused_by_the_first_that_is_missing(
    task: Task, architecture: str, tmp_path: Path
) -> None:
    """transformers would fill q_norm and k_norm with ones and train something that nobody has."""
    base = write_model(tmp_path / "base", "llama")
    rename_architecture(base, "Qwen3ForCausalLM", "qwen3")
    with pytest.raises(
        UserError,
        match=r"lack model\.layers\.0\.self_attn\.k_norm\.weight and 3 more, which its architecture "
        rf"{architecture} has.*set spec\.model\.source to another model\.",
    ):
        load_plainly(base, task)


def test_a_model_without_its_own_head_is_refused(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", "llama", tie_word_embeddings=False)
    drop_tensor(base, "lm_head.weight")
    with pytest.raises(
        UserError, match=r"files lack lm_head\.weight, which its architecture LlamaForCausalLM"
    ):
        load_plainly(base)


@pytest.mark.parametrize("task", list(Task))
def test_a_tied_head_and_a_new_head_are_not_missed(task: Task, tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", "qwen2", tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(base / "model.safetensors")
    assert load_plainly(base, task) is not None


def test_a_folder_without_weights_is_refused_with_what_it_should_be(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    (base / "model.safetensors").unlink()
    with pytest.raises(
        UserError, match=r"architecture Qwen3ForCausalLM\) cannot be loaded: .*Set spec\.model\.source to"
    ):
        load_plainly(base)
