"""PiSSA: it starts without changing the model, goes on from a checkpoint bit for bit, and leaves as plain LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, set_seed

from finetune_trainer.adapters import config_for_inference
from finetune_trainer.engines.replicated import ReplicatedState
from finetune_trainer.model import ComputePrecision
from finetune_trainer.pissa import INITIAL_NAME, as_plain_lora, save_initial
from finetune_trainer.state_files import save_state
from finetune_trainer.tuned_model import TunedModel
from tests.builders.tiny_models import write_model
from tests.matrix.runner import make_spec
from tests.unit.trainer.small_trainer import LORA_FACTS, SmallTrainer, disturb, load_tuned, stopping_after

RANK, ALPHA = 4, 6.0
PISSA: dict[str, Any] = {"type": "LoRA", "lora": {"rank": RANK, "alpha": ALPHA, "variant": "PiSSA"}}
FP32 = ComputePrecision(torch.float32, None)
BF16 = ComputePrecision(torch.bfloat16, torch.bfloat16)
IDS = torch.arange(3, 40)[None]
BASE = "base_model.model."


def start(base: Path, precision: ComputePrecision = FP32, **options: Any) -> TunedModel:
    return load_tuned(base, make_spec(method=PISSA), precision=precision, **options)


def logits_of(model: torch.nn.Module) -> torch.Tensor:
    """Of one row, by the decoder and the head: the model's own forward returns a loss."""
    causal: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    with torch.no_grad():
        states = causal.model(
            input_ids=IDS, document_lengths=(IDS.numel(),), use_cache=False
        ).last_hidden_state
        logits: torch.Tensor = causal.lm_head(states)
    return logits


def plain_logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=IDS).logits
    return logits


def test_the_model_is_unchanged_where_training_starts(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    tuned = start(base).model.eval()
    wanted = plain_logits(AutoModelForCausalLM.from_pretrained(base).eval())
    torch.testing.assert_close(logits_of(tuned), wanted, rtol=0, atol=1e-5)
    # The adapter holds a part of it, so without the adapter it is another model.
    assert isinstance(tuned, PeftModel)
    with tuned.disable_adapter():
        assert (logits_of(tuned) - wanted).abs().max() > 1e-2


def test_adapter_starts_from_the_largest_singular_vectors(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    tuned = start(base)
    weights = load_file(base / "model.safetensors")
    assert tuned.pissa_start is not None
    layers = {name.removesuffix(".lora_A.weight") for name in tuned.pissa_start if "lora_A" in name}
    assert len(layers) == 4
    for layer in layers:
        a, b = (tuned.pissa_start[f"{layer}.lora_{letter}.weight"] for letter in "AB")
        weight = weights[layer.removeprefix(BASE) + ".weight"].double()
        # Eckart and Young: no product of this rank is nearer to the weight.
        left = weight - ALPHA / RANK * (b.double() @ a.double())
        values = torch.linalg.svdvals(weight)
        assert float(left.norm()) == pytest.approx(float(values[RANK:].norm()), rel=1e-5)
        assert float(torch.linalg.matrix_norm(left, 2)) == pytest.approx(float(values[RANK]), rel=1e-4)


def test_plain_lora_gives_the_trained_model(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    tuned = start(base)
    disturb(tuned.model)
    tuned.save_result(tmp_path / "trained", ReplicatedState(tuned.model), is_leader=True)
    exported = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base), tmp_path / "trained"
    ).eval()
    config = exported.peft_config["default"]
    assert (config.r, config.lora_alpha, config.init_lora_weights) == (2 * RANK, 2 * ALPHA, True)
    wanted = logits_of(tuned.model.eval())
    torch.testing.assert_close(plain_logits(exported), wanted, rtol=0, atol=2e-5)
    with exported.disable_adapter():
        assert (plain_logits(exported) - wanted).abs().max() > 1e-2


def test_conversion_doubles_the_rank_and_keeps_what_is_trained_whole() -> None:
    a, b = torch.randn(RANK, 8), torch.randn(5, RANK)
    a0, b0 = torch.randn(RANK, 8), torch.randn(5, RANK)
    head = torch.randn(3, 8)
    weights, config = as_plain_lora(
        {"q.lora_A.weight": a, "q.lora_B.weight": b, "score.weight": head},
        {"q.lora_A.weight": a0, "q.lora_B.weight": b0},
        {"r": RANK, "lora_alpha": ALPHA, "init_lora_weights": "pissa", "bias": "none"},
    )
    product = weights["q.lora_B.weight"] @ weights["q.lora_A.weight"]
    torch.testing.assert_close(product, b @ a - b0 @ a0)
    assert torch.equal(weights["score.weight"], head)
    assert config == {"r": 8, "lora_alpha": 12.0, "init_lora_weights": True, "bias": "none"}


@pytest.mark.parametrize("precision", [FP32, BF16], ids=["fp32", "bf16"])
def test_a_restart_begins_from_the_same_bits(precision: ComputePrecision, tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", dtype=precision.weights)
    tuned = start(base, precision)
    assert tuned.pissa_start is not None
    parameters = dict(tuned.model.named_parameters())
    save_initial(tmp_path, tuned.pissa_start)
    again = load_file(tmp_path / INITIAL_NAME)
    assert all(torch.equal(tensor, again[name]) for name, tensor in tuned.pissa_start.items())

    # Trained parameters come from the checkpoint; the frozen ones are made again.
    cell = SmallTrainer(tmp_path, PISSA, precision=precision, steps=2)
    cell.train()
    save_state(tmp_path, cell.trainer.engine.state.fragments(), 0)
    cell.tuned.save_method_state(tmp_path)
    resumed = start(base, precision, checkpoint=tmp_path)
    trained = dict(cell.model.named_parameters())
    for name, each in resumed.model.named_parameters():
        assert each.dtype == parameters[name].dtype
        assert torch.equal(each, trained[name]), name
        assert each.requires_grad or torch.equal(each, parameters[name]), name


def test_a_run_that_is_interrupted_is_the_whole_run(tmp_path: Path) -> None:
    set_seed(0)
    write_model(tmp_path / "base", dtype=torch.bfloat16)
    options: dict[str, Any] = {"precision": BF16, "micro_batch_tokens": 512}
    whole = SmallTrainer(tmp_path, PISSA, **options)
    losses = [figures.loss for figures in whole.train()]
    begun = SmallTrainer(tmp_path, PISSA, signals=stopping_after(3), **options)
    begun.train()
    rest = SmallTrainer(tmp_path, PISSA, checkpoint=begun.save(tmp_path / "checkpoint"), **options)
    assert [figures.loss for figures in rest.train()] == losses[3:]
    assert all(torch.equal(value, whole.trained()[name]) for name, value in rest.trained().items())


def test_settings_name_the_base_and_no_start_of_their_own(tmp_path: Path) -> None:
    tuned = start(write_model(tmp_path / "base"))
    assert isinstance(tuned.model, PeftModel)
    config = config_for_inference(tuned.model)
    assert (config["base_model_name_or_path"], config["r"], config["lora_alpha"]) == (
        "s3://models/base",
        RANK,
        ALPHA,
    )
    assert config["target_modules"] == sorted(LORA_FACTS.target_modules)
    # peft would take singular vectors of whatever base it is given.
    assert config["init_lora_weights"] is True
