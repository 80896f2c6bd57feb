"""The frozen base in 4 or 8 bits: its settings, which layers it takes, and that training learns beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from safetensors.torch import load_file
from torch import nn

from finetune_api.spec import Method, Task
from finetune_trainer.quantization import build_quantization
from finetune_trainer.run_file import MethodFacts
from finetune_trainer.target_modules import decide_trained_modules
from finetune_trainer.trained_shapes import count_quantized
from tests.builders.tiny_models import write_model
from tests.matrix.recipes import layers_of
from tests.matrix.runner import make_spec
from tests.unit.trainer.small_trainer import SmallTrainer, load_tuned

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
FACTS = MethodFacts(target_modules=("q_proj", "v_proj", "down_proj"))
INT8 = {"type": "INT8", "doubleQuantization": False}
FP4 = {"type": "FP4", "doubleQuantization": False}


def qlora(quantization: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "QLoRA", "lora": {"rank": 4}, "quantization": quantization or {}}


@pytest.mark.parametrize("method", ["Full", "LoRA", "AdaLoRA", "IA3", "PrefixTuning", "PromptTuning"])
def test_only_qlora_is_quantized(method: str) -> None:
    assert build_quantization(Method.model_validate({"type": method}), BF16, ()) is None


@pytest.mark.parametrize(
    ("quantization", "kind", "double"),
    [
        pytest.param({}, "nf4", True, id="by default"),
        pytest.param({"type": "FP4"}, "fp4", True, id="FP4"),
        pytest.param({"type": "NF4", "doubleQuantization": False}, "nf4", False, id="plain scales"),
    ],
)
def test_four_bits(quantization: dict[str, Any], kind: str, double: bool) -> None:
    config = build_quantization(Method.model_validate(qlora(quantization)), BF16, ())
    assert config is not None
    assert config.load_in_4bit and not config.load_in_8bit
    assert (config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant) == (kind, double)


def test_eight_bits() -> None:
    config = build_quantization(Method.model_validate(qlora(INT8)), BF16, ())
    assert config is not None
    assert config.load_in_8bit and not config.load_in_4bit


@pytest.mark.parametrize(
    ("wanted", "autocast", "expected"),
    [
        pytest.param("Auto", BF16, BF16, id="Auto under bf16"),
        pytest.param("Auto", FP16, FP16, id="Auto under fp16"),
        pytest.param("Auto", None, FP32, id="Auto under fp32"),
        pytest.param("BF16", None, BF16, id="named"),
        pytest.param("FP16", BF16, FP16, id="named, of another kind"),
        pytest.param("FP32", BF16, FP32, id="named, of more digits"),
    ],
)
def test_what_weights_are_expanded_to(
    wanted: str, autocast: torch.dtype | None, expected: torch.dtype
) -> None:
    config = build_quantization(Method.model_validate(qlora({"computeType": wanted})), autocast, ())
    assert config is not None
    assert config.bnb_4bit_compute_dtype is expected


@pytest.mark.parametrize("quantization", [{}, INT8], ids=["4 bits", "8 bits"])
def test_heads_and_what_is_trained_whole_are_left_as_they_are(quantization: dict[str, Any]) -> None:
    config = build_quantization(Method.model_validate(qlora(quantization)), BF16, ("embed_tokens",))
    assert config is not None
    assert config.llm_int8_skip_modules == ["embed_tokens", "lm_head", "score"]


# --- the model in memory -------------------------------------------------------------------------------------------


def load(base: Path, quantization: dict[str, Any], **changes: Any) -> nn.Module:
    spec = make_spec(method=qlora(quantization), **changes)
    model: Any = load_tuned(base, spec, FACTS).model
    inner: nn.Module = model.get_base_model()
    return inner


def quantized_layers(model: nn.Module, kind: type[nn.Module]) -> dict[str, Any]:
    return {
        name.replace(".base_layer", ""): module
        for name, module in model.named_modules()
        if isinstance(module, kind)
    }


def counted(base: Path, quantization: dict[str, Any]) -> int:
    """What the estimate of memory takes for quantized."""
    layers = layers_of(base)
    method = Method.model_validate(qlora(quantization))
    return count_quantized(method, decide_trained_modules(method, Task.CAUSAL_LM, layers), layers)


@pytest.mark.parametrize(
    ("quantization", "kind"),
    [({}, bnb.nn.Linear4bit), (FP4, bnb.nn.Linear4bit), (INT8, bnb.nn.Linear8bitLt)],
    ids=["NF4", "FP4", "INT8"],
)
def test_every_linear_layer_but_the_head_is_quantized(
    quantization: dict[str, Any], kind: type[nn.Module], tmp_path: Path
) -> None:
    model = load(write_model(tmp_path / "base"), quantization)
    layers = quantized_layers(model, kind)
    assert len(layers) == 2 * 7
    assert all(module.weight.dtype in (torch.uint8, torch.int8) for module in layers.values())
    assert not any(each.requires_grad for module in layers.values() for each in [module.weight])
    head: Any = model.lm_head
    assert type(head) is nn.Linear
    assert sum(module.in_features * module.out_features for module in layers.values()) == counted(
        tmp_path / "base", quantization
    )


@pytest.mark.parametrize(("quantization", "share"), [({}, 0.1), (FP4, 0.13)], ids=["NF4", "FP4"])
def test_quantized_weights_are_near_the_bases(
    quantization: dict[str, Any], share: float, tmp_path: Path
) -> None:
    base = write_model(tmp_path / "base")
    weights = load_file(base / "model.safetensors")
    for name, module in quantized_layers(load(base, quantization), bnb.nn.Linear4bit).items():
        found = dequantize_4bit(module.weight.data, module.weight.quant_state)
        wanted = weights[f"{name}.weight"]
        assert found.shape == wanted.shape
        assert 0 < float((found - wanted).norm() / wanted.norm()) < share


def test_classifiers_head_is_trained_in_fp32(tmp_path: Path) -> None:
    spec = make_spec(method=qlora(), task="SequenceClassification", labels=["no", "yes"])
    model: Any = load_tuned(write_model(tmp_path / "base"), spec, FACTS).model
    trained = {name for name, each in model.named_parameters() if each.requires_grad and "score" in name}
    assert len(trained) == 1
    assert model.get_parameter(trained.pop()).dtype is FP32


@pytest.mark.parametrize("quantization", [{}, FP4, INT8], ids=["NF4", "FP4", "INT8"])
def test_training_learns_and_leaves_the_base_as_it_was(quantization: dict[str, Any], tmp_path: Path) -> None:
    cell = SmallTrainer(tmp_path, qlora(quantization), FACTS, steps=12, warmup_steps=0, scheduler="Constant")
    kind = bnb.nn.Linear8bitLt if quantization == INT8 else bnb.nn.Linear4bit
    layers = quantized_layers(cell.model.get_base_model(), kind)
    before = {name: module.weight.detach().clone() for name, module in layers.items()}
    losses = [figures.loss for figures in cell.train()]
    # Twenty rows in batches of eight: the same rows come again after three steps.
    assert sum(losses[-3:]) < sum(losses[:3]) - 0.1
    assert all(torch.equal(module.weight, before[name]) for name, module in layers.items())
