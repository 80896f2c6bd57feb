"""What the proofs find: merged models that are not what was trained, adapters that are not what was uploaded."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftConfig, PrefixTuningConfig, PromptTuningConfig
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from finetune_trainer.data.step_batches import PackedRows, pack_rows
from finetune_trainer.errors import UserError
from finetune_trainer.reloaded_adapter import check_reloaded_adapter, rows_of_one_length
from finetune_trainer.streamed_model import open_streamed_adapter, open_streamed_model
from finetune_trainer.tensor_files import TensorFiles
from finetune_trainer.verification import (
    Compared,
    LogitComparison,
    compare_with_adapter,
    compare_with_trained,
    decide_tolerance,
    ensure_logits_agree,
)
from tests.builders.rows import write_prepared_rows
from tests.builders.small_causal_models import make_small_config
from tests.builders.tiny_models import write_model
from tests.builders.tuned_models import LABELS, load_adapted, write_adapter, write_trained_weights


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_model(tmp_path / "base", "qwen2")


@pytest.fixture
def rows(tmp_path: Path) -> PackedRows:
    lengths = [12, 30, 25, 3]
    return pack_rows(write_prepared_rows(tmp_path / "rows", lengths), range(len(lengths)))


def virtual_tokens(task: str = "CAUSAL_LM") -> dict[str, PeftConfig]:
    return {
        "prefix": PrefixTuningConfig(task_type=task, num_virtual_tokens=5),
        "prefix, projected": PrefixTuningConfig(
            task_type=task, num_virtual_tokens=5, prefix_projection=True, encoder_hidden_size=32
        ),
        "prompt": PromptTuningConfig(task_type=task, num_virtual_tokens=5),
    }


LORA = {"LoRA": LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"])}


# --- adapters ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*virtual_tokens(), *LORA])
def test_adapter_loads_again_as_it_was_trained(
    name: str, base: Path, rows: PackedRows, tmp_path: Path
) -> None:
    config = {**virtual_tokens(), **LORA}[name]
    trained = write_adapter(base, tmp_path / "trained", config)
    adapter = shutil.copytree(trained, tmp_path / "adapter")
    check = check_reloaded_adapter(base, adapter, trained, rows)
    assert check.tensors == len(load_file(trained / "adapter_model.safetensors"))
    assert check.rows == 2


@pytest.mark.parametrize("name", virtual_tokens())
def test_classifiers_adapter_loads_again_with_its_head(
    name: str, base: Path, rows: PackedRows, tmp_path: Path
) -> None:
    trained = write_adapter(base, tmp_path / "trained", virtual_tokens("SEQ_CLS")[name], labels=LABELS)
    assert check_reloaded_adapter(base, trained, trained, rows, LABELS).tensors == 2


def spoil(folder: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    name = min(tensors)
    save_file({**tensors, name: change(tensors[name])}, path, metadata={"format": "pt"})


def test_single_changed_number_of_an_adapter_is_found(base: Path, rows: PackedRows, tmp_path: Path) -> None:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor[0, 0] += 1e-6
        return tensor

    trained = write_adapter(base, tmp_path / "trained", virtual_tokens()["prefix"])
    adapter = shutil.copytree(trained, tmp_path / "adapter")
    spoil(adapter, change)
    with pytest.raises(UserError, match="tensor prompt_embeddings is another one"):
        check_reloaded_adapter(base, adapter, trained, rows)


def test_adapter_with_a_tensor_less_is_found(base: Path, rows: PackedRows, tmp_path: Path) -> None:
    trained = write_adapter(base, tmp_path / "trained", virtual_tokens()["prompt"])
    adapter = shutil.copytree(trained, tmp_path / "adapter")
    path = trained / "adapter_model.safetensors"
    save_file({**load_file(path), "more": torch.ones(1)}, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match="tensor more is missing or superfluous"):
        check_reloaded_adapter(base, adapter, trained, rows)


@pytest.mark.parametrize("name", virtual_tokens())
def test_adapter_that_makes_no_numbers_is_found(
    name: str, base: Path, rows: PackedRows, tmp_path: Path
) -> None:
    trained = write_adapter(base, tmp_path / "trained", virtual_tokens()[name])
    spoil(trained, lambda tensor: tensor.fill_(torch.nan))
    with pytest.raises(UserError, match="its logits are not finite"):
        check_reloaded_adapter(base, trained, trained, rows)


def test_rows_are_cut_to_one_length_at_their_ends(rows: PackedRows) -> None:
    batch = rows_of_one_length(rows)
    assert batch.shape == (2, 25)
    assert torch.equal(batch[0], rows.input_ids[0, 12 + 5 : 12 + 30])


# --- merged models -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"], use_dora=True),
        LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"], modules_to_save=["mlp"]),
        LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["lm_head"]),
        IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj"], feedforward_modules=[]),
    ],
    ids=["DoRA", "trained whole", "head", "IA3"],
)
def test_base_in_the_place_of_the_merged_model_is_found(
    config: PeftConfig, base: Path, rows: PackedRows, tmp_path: Path
) -> None:
    trained = write_adapter(base, tmp_path / "trained", config)
    comparison = compare_with_adapter(Compared(base, trained, base, rows), {torch.float32})
    assert not comparison.holds
    assert comparison.max_difference == pytest.approx(comparison.adapter_effect)


def test_weights_of_another_run_in_the_place_of_the_merged_model_are_found(
    base: Path, rows: PackedRows, tmp_path: Path
) -> None:
    trained, other = (write_trained_weights(base, tmp_path / f"trained-{seed}", seed=seed) for seed in (1, 2))
    shutil.copy(base / "config.json", other)
    comparison = compare_with_trained(Compared(base, trained, other, rows), {torch.float32})
    assert not comparison.holds


def test_classifier_is_compared_at_the_last_token_of_each_row(
    base: Path, rows: PackedRows, tmp_path: Path
) -> None:
    config = LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["q_proj"])
    trained = write_adapter(base, tmp_path / "trained", config, labels=LABELS)
    comparison = compare_with_adapter(Compared(base, trained, base, rows, LABELS), {torch.float32})
    split = torch.split(rows.input_ids[0], list(rows.document_lengths))
    model = load_adapted(base, trained, LABELS)
    with torch.no_grad():
        largest = max(model(input_ids=row[None]).logits.abs().max() for row in split)
    # The base in the place of the merged model has no head, and says 0 for every class.
    assert comparison.max_difference == comparison.adapter_effect == pytest.approx(float(largest), rel=1e-4)


@pytest.mark.parametrize(
    ("effect", "largest_logit", "is_fp32", "expected"),
    [
        pytest.param(0.0, 1.0, True, 1e-4, id="small logits"),
        pytest.param(0.5, 40.0, True, 5e-4, id="training did a little"),
        pytest.param(10.0, 40.0, True, 1e-2, id="training did much"),
        pytest.param(0.0, 40.0, True, 4e-4, id="large logits"),
        pytest.param(2.0, 40.0, False, 0.1, id="16 bits"),
    ],
)
def test_tolerance_goes_with_the_logits_and_with_what_training_did(
    effect: float, largest_logit: float, is_fp32: bool, expected: float
) -> None:
    assert decide_tolerance(effect, largest_logit, is_fp32=is_fp32) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("is_fp32", "sentence"),
    [(False, "Set spec.output.merged.precision to FP32"), (True, "the merge went wrong")],
    ids=["16 bits", "32 bits"],
)
def test_a_difference_says_what_to_do(is_fp32: bool, sentence: str) -> None:
    comparison = LogitComparison(
        rows=1, tokens=2, max_difference=1.0, adapter_effect=2.0, tolerance=0.1, is_fp32=is_fp32
    )
    with pytest.raises(UserError, match=sentence):
        ensure_logits_agree(comparison)


@pytest.mark.parametrize(
    ("model_type", "rename"),
    [
        ("gpt2", lambda name: name.removeprefix("transformer.")),
        ("gpt_neox", lambda name: name.replace("lm_head.", "embed_out.")),
        ("qwen2", lambda name: name.removeprefix("model.")),
    ],
    ids=["GPT-2 as the hub has it", "GPT-NeoX as the hub has it", "a decoder alone"],
)
def test_a_base_whose_files_have_older_names_is_compared_as_well(
    model_type: str, rename: Callable[[str], str], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(make_small_config(model_type))
    weights = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    base, trained = tmp_path / "base", tmp_path / "trained"
    for folder in (base, trained):
        folder.mkdir()
        model.config.save_pretrained(folder)
    renamed = {rename(name): tensor for name, tensor in weights.items()}
    assert set(renamed) != set(weights)
    save_file(renamed, base / "model.safetensors")
    moved = {name: tensor + 0.01 * torch.randn_like(tensor) for name, tensor in weights.items()}
    save_file(moved, trained / "model.safetensors")
    rows = write_prepared_rows(tmp_path / "short-rows", [5, 9], vocabulary=model.config.vocab_size)
    compared = Compared(base, trained, trained, pack_rows(rows, range(2)))
    comparison = compare_with_trained(compared, {torch.float32})
    assert comparison.holds
    assert comparison.adapter_effect > 0


# --- how models are run that do not fit in memory -----------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "embed_tokens"], use_dora=True),
        LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["up_proj"], modules_to_save=["self_attn"]),
    ],
    ids=["DoRA", "trained whole"],
)
def test_no_weight_of_the_base_stays_in_memory(
    config: PeftConfig, base: Path, rows: PackedRows, tmp_path: Path
) -> None:
    trained = write_adapter(base, tmp_path / "trained", config)
    with TensorFiles(base) as files:
        model = open_streamed_adapter(base, files, trained)
        plain = open_streamed_model(base, files)
        inner = model.get_base_model().model
        for decoder in (inner, plain.model):
            decoder(
                input_ids=rows.input_ids,
                position_ids=rows.position_ids,
                document_lengths=rows.document_lengths,
                use_cache=False,
            )
        held = {
            name: parameter.untyped_storage().nbytes()
            for name, parameter in [*model.named_parameters(), *plain.named_parameters()]
            if "lora_" not in name and ".modules_to_save." not in name
        }
    assert held and set(held.values()) == {4}
