"""Every method, merged: what is changed and what is not, and that the merged model does what base + adapter does."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, IA3Config, LoraConfig, PeftConfig, PeftModel, PrefixTuningConfig
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from finetune_api.spec import MergedPrecision, Task
from finetune_trainer.data.step_batches import pack_rows
from finetune_trainer.errors import UserError
from finetune_trainer.merging.adapter_changes import read_adapter_changes
from finetune_trainer.merging.full_changes import read_full_changes
from finetune_trainer.merging.lora import decide_scaling
from finetune_trainer.merging.merged_model import MergedModel, write_merged
from finetune_trainer.packaging import has_tied_embeddings, write_merged_config, write_tokenizer
from finetune_trainer.tensor_files import TensorFiles
from finetune_trainer.verification import (
    Compared,
    LogitComparison,
    compare_with_adapter,
    compare_with_trained,
    ensure_tensors_equal,
)
from tests.builders.rows import write_prepared_rows
from tests.builders.tiny_models import write_model
from tests.builders.tuned_models import (
    LABELS,
    load_adapted,
    load_base,
    logits_of,
    prune_ranks,
    write_adapter,
    write_trained_weights,
)

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
ROWS = torch.arange(60).reshape(3, 20) * 7 % 256


@dataclass(frozen=True)
class Result:
    """A merged model with what it was made from, and what verification says of it."""

    base: Path
    trained: Path
    merged: Path
    comparison: LogitComparison
    is_untied: bool

    def changed_names(self) -> set[str]:
        """Tensors that the merged model has and the base has not, or has with other bytes."""
        with TensorFiles(self.base) as base, TensorFiles(self.merged) as merged:
            return {
                name
                for name in merged
                if name not in base or not torch.equal(base.load(name), merged.load(name))
            }

    def names(self) -> set[str]:
        with TensorFiles(self.merged) as merged:
            return set(merged)


def merge(
    base: Path,
    trained: Path,
    folder: Path,
    *,
    full: bool = False,
    precision: MergedPrecision = MergedPrecision.BASE,
    labels: Sequence[str] | None = None,
) -> Result:
    task = Task.CAUSAL_LM if labels is None else Task.SEQUENCE_CLASSIFICATION
    with TensorFiles(base) as files, TensorFiles(trained) as tensors:
        changes = read_full_changes(tensors) if full else read_adapter_changes(trained, tensors, files)
        merged = MergedModel(files, changes, precision, tied_embeddings=has_tied_embeddings(base), task=task)
        write_merged(merged, folder, "1MB")
        write_merged_config(base, folder, merged.main_dtype, is_untied=merged.is_untied, labels=labels)
        write_tokenizer(base, folder, "", labels)
        ensure_tensors_equal(merged, folder)
    rows = write_prepared_rows(folder / "rows.arrow", [20, 7, 13])
    compared = Compared(base, trained, folder, pack_rows(rows, range(3)), labels)
    compare = compare_with_trained if full else compare_with_adapter
    return Result(base, trained, folder, compare(compared, merged.adapted_dtypes), merged.is_untied)


@dataclass(frozen=True)
class Case:
    """A method's settings, and the tensors that it may change: exactly those whose names end so."""

    config: Callable[[], PeftConfig]
    changed: str
    unties: bool = False
    alter: Callable[[PeftModel], None] | None = None


def lora(*targets: str, **settings: object) -> Callable[[], PeftConfig]:
    settings = {"r": 4, "lora_alpha": 16, **settings}
    return lambda: LoraConfig(task_type="CAUSAL_LM", target_modules=list(targets), **settings)


def adalora(*targets: str) -> Callable[[], PeftConfig]:
    return lambda: AdaLoraConfig(
        task_type="CAUSAL_LM",
        target_modules=list(targets),
        init_r=6,
        target_r=3,
        lora_alpha=32,
        total_step=100,
    )


QV = r"(q|v)_proj\.weight"
CASES = {
    "LoRA changes the weights it stands beside": Case(lora("q_proj", "v_proj"), QV),
    "rsLoRA scales by the square root of the rank": Case(lora("q_proj", "v_proj", use_rslora=True), QV),
    "ranks and alphas may differ by module": Case(
        lora("q_proj", "v_proj", rank_pattern={r"layers.1.self_attn.q_proj": 2}, alpha_pattern={"v_proj": 3}),
        QV,
    ),
    "DoRA sets the length of every row": Case(
        lora("q_proj", "down_proj", use_dora=True), r"(q|down)_proj\.weight"
    ),
    "DoRA scaled as rsLoRA, on both embeddings too": Case(
        lora("q_proj", "embed_tokens", "lm_head", use_dora=True, use_rslora=True),
        rf"q_proj\.weight|{EMBEDDING}|{HEAD}",
        unties=True,
    ),
    "modules trained whole take the place of the base's": Case(
        lora("up_proj", modules_to_save=["self_attn"]), r"up_proj\.weight|self_attn\.[a-z_]+\.(weight|bias)"
    ),
    "LoRA on a tied head leaves the embedding alone": Case(
        lora("q_proj", "lm_head"), rf"q_proj\.weight|{HEAD}", unties=True
    ),
    "LoRA on a tied embedding leaves the head what it was": Case(
        lora("q_proj", "embed_tokens"), rf"q_proj\.weight|{EMBEDDING}|{HEAD}", unties=True
    ),
    "LoRA that keeps embeddings tied changes the one tensor": Case(
        lora("q_proj", "embed_tokens", ensure_weight_tying=True), rf"q_proj\.weight|{EMBEDDING}"
    ),
    "a tied head trained whole becomes a tensor of its own": Case(
        lora("q_proj", modules_to_save=["lm_head"]), rf"q_proj\.weight|{HEAD}", unties=True
    ),
    "a tied embedding trained whole leaves the head what it was": Case(
        lora("q_proj", modules_to_save=["embed_tokens"]), rf"q_proj\.weight|{EMBEDDING}|{HEAD}", unties=True
    ),
    "both embeddings trained whole become two tensors": Case(
        lora("q_proj", modules_to_save=["embed_tokens", "lm_head"]),
        rf"q_proj\.weight|{EMBEDDING}|{HEAD}",
        unties=True,
    ),
    "embeddings trained whole and kept tied stay one tensor": Case(
        lora("q_proj", modules_to_save=["embed_tokens"], ensure_weight_tying=True),
        rf"q_proj\.weight|{EMBEDDING}",
    ),
    "AdaLoRA weighs its ranks": Case(adalora("q_proj", "v_proj"), QV),
    "AdaLoRA's ranks that were taken away are gone, its scaling is the first one's": Case(
        adalora("q_proj", "v_proj"),
        r"(layers\.1\.self_attn\.q|v)_proj\.weight",
        alter=prune_ranks({r"0\.self_attn\.q_proj": [False] * 6, "v_proj": [True, False] * 3}),
    ),
    "IA3 scales outputs with their biases, and inputs": Case(
        lambda: IA3Config(
            task_type="CAUSAL_LM",
            target_modules=["k_proj", "v_proj", "down_proj"],
            feedforward_modules=["down_proj"],
        ),
        r"(k|v)_proj\.(weight|bias)|down_proj\.weight",
    ),
}


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_merged_model_is_base_plus_adapter_and_nothing_else_is_touched(
    case: Case, architecture: str, tmp_path: Path
) -> None:
    base = write_base(tmp_path / "base", architecture)
    trained = write_adapter(base, tmp_path / "trained", case.config(), alter=case.alter)
    result = merge(base, trained, tmp_path / "merged")

    expected = {name for name in {*base_names(base), HEAD} if re.search(f"({case.changed})$", name)}
    assert result.changed_names() == expected
    assert result.is_untied == case.unties
    assert (HEAD in result.names()) == case.unties
    assert AutoConfig.from_pretrained(result.merged).tie_word_embeddings == (not case.unties)

    wanted = logits_of(load_adapted(base, trained), ROWS)
    found = logits_of(load_base(result.merged), ROWS)
    effect = (wanted - logits_of(load_base(base), ROWS)).abs().max()
    assert effect > 0.01
    assert (wanted - found).abs().max() < 1e-5
    assert result.comparison.holds
    assert result.comparison.max_difference < 1e-5
    assert result.comparison.adapter_effect > 0.01


TOUCHES_EMBEDDING = re.compile("tied|embedding")


@pytest.mark.parametrize("case", [case for name, case in CASES.items() if not TOUCHES_EMBEDDING.search(name)])
def test_merged_tensors_are_those_of_pefts_own_merge(case: Case, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "qwen2")
    trained = write_adapter(base, tmp_path / "trained", case.config(), alter=case.alter)
    result = merge(base, trained, tmp_path / "merged")
    theirs = load_adapted(base, trained).merge_and_unload().state_dict()
    with TensorFiles(result.merged) as ours:
        for name in ours:
            torch.testing.assert_close(ours.load(name), theirs[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "precision", "expected"),
    [
        ("LoRA changes the weights it stands beside", MergedPrecision.BASE, torch.bfloat16),
        ("DoRA scaled as rsLoRA, on both embeddings too", MergedPrecision.BASE, torch.bfloat16),
        ("IA3 scales outputs with their biases, and inputs", MergedPrecision.BF16, torch.bfloat16),
        ("a tied head trained whole becomes a tensor of its own", MergedPrecision.FP32, torch.float32),
    ],
)
def test_number_format_holds_for_every_tensor(
    name: str, precision: MergedPrecision, expected: torch.dtype, tmp_path: Path
) -> None:
    base = write_base(tmp_path / "base", "qwen2", dtype=torch.bfloat16)
    trained = write_adapter(base, tmp_path / "trained", CASES[name].config())
    result = merge(base, trained, tmp_path / "merged", precision=precision)
    with TensorFiles(result.merged) as tensors:
        assert {tensors.plan(name).dtype for name in tensors} == {expected}
    assert result.comparison.holds
    assert result.comparison.max_difference > 0 or expected is torch.float32


@pytest.mark.parametrize(
    ("settings", "module", "scaling"),
    [
        ({}, "model.layers.0.self_attn.q_proj", 4.0),
        ({"use_rslora": True}, "model.layers.0.self_attn.q_proj", 8.0),
        ({"alpha_pattern": {"q_proj": 2}}, "model.layers.0.self_attn.q_proj", 0.5),
        ({"alpha_pattern": {"q_proj": 2}}, "model.layers.0.self_attn.v_proj", 4.0),
        ({"alpha_pattern": {r"layers.1.self_attn.q_proj": 2}}, "model.layers.0.self_attn.q_proj", 4.0),
    ],
)
def test_scaling_of_a_module(settings: dict[str, object], module: str, scaling: float) -> None:
    assert decide_scaling({"lora_alpha": 16, **settings}, module, 4) == scaling


# --- full fine-tuning --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "not tied"])
def test_fully_trained_weights_are_the_merged_model(architecture: str, tied: bool, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", architecture, tie_word_embeddings=tied)
    trained = write_trained_weights(base, tmp_path / "trained", shard_size="100KB")
    result = merge(base, trained, tmp_path / "merged", full=True)
    with TensorFiles(trained) as tensors, TensorFiles(result.merged) as merged:
        assert set(merged) == set(tensors) == base_names(base)
        assert all(torch.equal(merged.load(name), tensors.load(name)) for name in merged)
    assert result.changed_names() == base_names(base)
    assert result.comparison.max_difference == 0
    assert result.comparison.adapter_effect > 0.01
    AutoModelForCausalLM.from_pretrained(result.merged)


def test_fully_trained_weights_are_cast_to_the_bases_number_format(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "qwen2", dtype=torch.bfloat16)
    trained = write_trained_weights(base, tmp_path / "trained")
    result = merge(base, trained, tmp_path / "merged", full=True)
    with TensorFiles(trained) as tensors, TensorFiles(result.merged) as merged:
        assert all(torch.equal(merged.load(name), tensors.load(name).bfloat16()) for name in merged)
    assert result.comparison.holds
    assert result.comparison.max_difference > 0


def test_tensors_that_are_no_parameters_stay_the_bases(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "qwen2")
    trained = write_trained_weights(base, tmp_path / "trained")
    add_tensor(base, "model.some_buffer", torch.arange(5.0))
    result = merge(base, trained, tmp_path / "merged", full=True)
    assert result.names() - {"model.some_buffer"} == result.changed_names()
    assert "model.some_buffer" in result.names()


def test_weights_whose_names_the_bases_files_do_not_have_are_exported_as_trained(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "qwen2", dtype=torch.bfloat16)
    trained = write_trained_weights(base, tmp_path / "trained")
    rename_tensors(base, lambda name: name.removeprefix("model."))
    with TensorFiles(base) as files, TensorFiles(trained) as tensors:
        merged = MergedModel(files, read_full_changes(tensors), MergedPrecision.BASE, tied_embeddings=True)
        assert set(merged.plans) == set(tensors)
        assert {plan.dtype for plan in merged.plans.values()} == {torch.bfloat16}


# --- classifiers -------------------------------------------------------------------------------------------------

CLASSIFIERS: dict[str, Callable[[], PeftConfig]] = {
    "LoRA": lambda: LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["q_proj", "v_proj"]),
    "DoRA": lambda: LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["q_proj"], use_dora=True),
    "AdaLoRA": lambda: AdaLoraConfig(task_type="SEQ_CLS", init_r=4, target_modules=["q_proj"], total_step=9),
    "IA3": lambda: IA3Config(
        task_type="SEQ_CLS", target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]
    ),
}


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
@pytest.mark.parametrize("config", CLASSIFIERS.values(), ids=CLASSIFIERS.keys())
def test_classifier_is_base_plus_adapter_with_a_head_of_its_own(
    config: Callable[[], PeftConfig], architecture: str, tmp_path: Path
) -> None:
    base = write_base(tmp_path / "base", architecture, tie_word_embeddings=architecture == "qwen3")
    trained = write_adapter(base, tmp_path / "trained", config(), labels=LABELS)
    result = merge(base, trained, tmp_path / "merged", labels=LABELS)
    assert "score.weight" in result.changed_names()
    assert HEAD not in result.names()

    merged = AutoModelForSequenceClassification.from_pretrained(result.merged).eval()
    wanted = logits_of(load_adapted(base, trained, LABELS), ROWS)
    assert wanted.shape == (3, 3)
    assert (logits_of(merged, ROWS) - wanted).abs().max() < 1e-5
    assert result.comparison.holds
    assert result.comparison.adapter_effect > 0.01


def test_fully_trained_classifier(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "qwen3", dtype=torch.bfloat16)
    trained = write_trained_weights(base, tmp_path / "trained", labels=LABELS)
    result = merge(base, trained, tmp_path / "merged", full=True, labels=LABELS)
    assert result.names() == {*base_names(base), "score.weight"}
    with TensorFiles(result.merged) as tensors:
        assert tensors.plan("score.weight").dtype is torch.bfloat16
    assert result.comparison.holds


@pytest.mark.parametrize("pads", [True, False], ids=["the tokenizer pads", "the tokenizer does not pad"])
def test_classifiers_configuration_names_its_labels_and_takes_texts_of_different_lengths(
    pads: bool, tmp_path: Path
) -> None:
    base = write_base(tmp_path / "base", "qwen2")
    edit_json(base / "config.json", pad_token_id=None)
    if not pads:
        edit_json(base / "tokenizer_config.json", pad_token=None)
    trained = write_adapter(base, tmp_path / "trained", CLASSIFIERS["LoRA"](), labels=LABELS)
    result = merge(base, trained, tmp_path / "merged", labels=LABELS)

    model = AutoModelForSequenceClassification.from_pretrained(result.merged).eval()
    config = model.config
    assert config.architectures == ["Qwen2ForSequenceClassification"]
    assert config.num_labels == 3
    assert config.id2label == dict(enumerate(LABELS))
    assert config.label2id == {label: number for number, label in enumerate(LABELS)}
    assert config.problem_type == "single_label_classification"
    tokenizer = AutoTokenizer.from_pretrained(result.merged)
    assert tokenizer.pad_token_id == config.pad_token_id
    texts = ["short", "quite a bit longer"]
    with torch.no_grad():
        together = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
        alone = torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in texts])
    assert (together - alone).abs().max() < 1e-5
    assert not (result.merged / "generation_config.json").exists()


# --- what cannot be merged ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "tensor", "message"),
    [
        ("LoRA", "layers.0.self_attn.q_proj.lora_B.bias", r"lora_B\.bias, which is not part of LoRA"),
        ("LoRA", "layers.0.mlp.up_proj.lora_A.weight", r"up_proj\.lora_A\.weight, which is not part of LoRA"),
        ("LoRA", "somewhere_else.weight", r"somewhere_else\.weight, which is not part of LoRA"),
        ("AdaLoRA", "layers.0.mlp.up_proj.lora_E", r"up_proj\.lora_E, which is not part of AdaLoRA"),
    ],
)
def test_tensor_that_nobody_knows_how_to_merge_is_refused(
    method: str, tensor: str, message: str, tmp_path: Path
) -> None:
    base = write_base(tmp_path / "base", "qwen2")
    config = {"LoRA": lora("q_proj"), "AdaLoRA": adalora("q_proj")}[method]
    trained = write_adapter(base, tmp_path / "trained", config())
    add_tensor(trained, f"base_model.model.model.{tensor}", torch.ones(4, 4))
    with pytest.raises(UserError, match=message):
        merge(base, trained, tmp_path / "merged")


def test_adapter_of_virtual_tokens_is_refused(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "qwen2")
    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    trained = write_adapter(base, tmp_path / "trained", config)
    with pytest.raises(UserError, match="type PREFIX_TUNING cannot be merged"):
        merge(base, trained, tmp_path / "merged")


def test_adapter_of_a_layer_that_the_base_does_not_have_is_refused(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "qwen2")
    trained = write_adapter(base, tmp_path / "trained", lora("q_proj")())
    rename_tensors(base, lambda name: name.removeprefix("model."))
    with pytest.raises(UserError, match=r"q_proj\.weight, which the base model's files do not have"):
        merge(base, trained, tmp_path / "merged")


# --- how the tests make their models -----------------------------------------------------------------------------


def write_base(folder: Path, architecture: str, **settings: Any) -> Path:
    """A base whose biases and norms are not what every model begins with."""
    from safetensors.torch import load_file, save_file

    base = write_model(folder, architecture, **settings)
    path = base / "model.safetensors"
    torch.manual_seed(9)
    tensors = {
        name: tensor + (0.1 * torch.randn(tensor.shape)).to(tensor.dtype) if tensor.dim() == 1 else tensor
        for name, tensor in load_file(path).items()
    }
    save_file(tensors, path, metadata={"format": "pt"})
    return base


def base_names(base: Path) -> set[str]:
    with TensorFiles(base) as files:
        return set(files)


def add_tensor(folder: Path, name: str, tensor: torch.Tensor) -> None:
    from safetensors.torch import load_file, save_file

    path = next(folder.glob("*.safetensors"))
    save_file({**load_file(path), name: tensor}, path, metadata={"format": "pt"})


def rename_tensors(folder: Path, rename: Callable[[str], str]) -> None:
    from safetensors.torch import load_file, save_file

    path = next(folder.glob("*.safetensors"))
    save_file(
        {rename(name): tensor for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"}
    )


def edit_json(path: Path, **changes: object) -> None:
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
