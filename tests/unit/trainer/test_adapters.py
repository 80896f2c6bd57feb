"""Adapters of every method: their settings, what they start from, and their files, which peft loads as they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.utils.integrations import dequantize_module_weight
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from finetune_api.spec import Method, Task
from finetune_trainer.adapters import (
    ADAPTER_CONFIG_NAME,
    ADAPTER_WEIGHTS_NAME,
    build_adapter_config,
    load_adapter,
    save_adapter,
)
from finetune_trainer.data.prepared import PreparedRows
from finetune_trainer.data.step_batches import pack_rows, pad_rows
from finetune_trainer.losses import output_head
from finetune_trainer.model import packs_rows
from finetune_trainer.quantization import build_quantization
from finetune_trainer.run_file import MethodFacts
from tests.builders.tiny_models import make_tokenizer, write_model
from tests.matrix.runner import make_spec
from tests.unit.trainer.small_trainer import (
    LORA_FACTS,
    SmallTrainer,
    disturb,
    load_tuned,
    write_rows_of_sources,
)

LABELS = ("no", "yes", "maybe")
TEXT = "Answer kindly."
IA3_FACTS = MethodFacts(target_modules=("down_proj", "k_proj", "v_proj"), feedforward_modules=("down_proj",))
RANK_FACTS = MethodFacts(target_modules=("q_proj", "down_proj"), initial_steps=1, final_steps=2)
METHODS: dict[str, tuple[dict[str, Any], MethodFacts]] = {
    "LoRA": ({"type": "LoRA", "lora": {"rank": 4}}, LORA_FACTS),
    "RSLoRA": ({"type": "LoRA", "lora": {"rank": 4, "variant": "RSLoRA"}}, LORA_FACTS),
    "DoRA": ({"type": "LoRA", "lora": {"rank": 4, "variant": "DoRA"}}, LORA_FACTS),
    "LoRA on the head": ({"type": "LoRA", "lora": {"rank": 4}}, MethodFacts(target_modules=("lm_head",))),
    "LoRA on the embedding": (
        {"type": "LoRA", "lora": {"rank": 4}},
        MethodFacts(target_modules=("embed_tokens", "q_proj")),
    ),
    "LoRA beside whole modules": (
        {"type": "LoRA", "lora": {"rank": 4, "targetModules": ["q_proj"], "fullyTrainedModules": ["mlp"]}},
        MethodFacts(target_modules=("q_proj",), fully_trained_modules=("mlp",)),
    ),
    "QLoRA": ({"type": "QLoRA", "lora": {"rank": 4}}, LORA_FACTS),
    "AdaLoRA": ({"type": "AdaLoRA", "adaLora": {"initialRank": 4, "targetRank": 2}}, RANK_FACTS),
    "IA3": ({"type": "IA3"}, IA3_FACTS),
    "prefix": ({"type": "PrefixTuning", "prefixTuning": {"virtualTokens": 5}}, MethodFacts()),
    "prefix, projected": (
        {"type": "PrefixTuning", "prefixTuning": {"virtualTokens": 5, "projection": True}},
        MethodFacts(),
    ),
    "prompt": ({"type": "PromptTuning", "promptTuning": {"virtualTokens": 5}}, MethodFacts()),
    "prompt of words": (
        {"type": "PromptTuning", "promptTuning": {"virtualTokens": 5, "init": "Text", "initText": TEXT}},
        MethodFacts(),
    ),
}  # fmt: skip
# Language models alone have the layer.
CAUSAL_ONLY = {"LoRA on the head"}
CASES = [
    (name, task) for name in METHODS for task in Task if task is Task.CAUSAL_LM or name not in CAUSAL_ONLY
]


def make_model(base: Path, name: str, task: Task = Task.CAUSAL_LM, **changes: Any) -> PeftModel:
    """As it is trained, somewhere on its way."""
    method, facts = METHODS[name]
    classes = {"labels": list(LABELS)} if task is Task.SEQUENCE_CLASSIFICATION else {}
    spec = make_spec(method=method, task=task.value, **classes, **changes)
    model = load_tuned(base, spec, facts, steps=10).model
    assert isinstance(model, PeftModel)
    disturb(model)
    return model


@pytest.mark.parametrize("quantization", [None, {"type": "NF4"}], ids=["bf16", "4 bits"])
def test_dora_begins_as_the_base(quantization: dict[str, Any] | None, tmp_path: Path) -> None:
    """A norm that was rounded to 16 bits would scale each row of a layer by up to two thousandths."""
    dora = {"rank": 4, "variant": "DoRA"}
    method: dict[str, Any] = {"type": "LoRA", "lora": dora}
    if quantization is not None:
        method = {"type": "QLoRA", "lora": dora, "quantization": quantization}
    base = write_model(tmp_path / "base", dtype=torch.bfloat16)
    facts = MethodFacts(target_modules=("q_proj", "down_proj"))
    model: Any = load_tuned(base, make_spec(method=method, training__precision="BF16"), facts).model
    layers = [each for each in model.modules() if hasattr(each, "lora_magnitude_vector")]
    assert layers
    for layer in layers:
        weight = dequantize_module_weight(layer.get_base_layer()).float()
        magnitude = layer.lora_magnitude_vector["default"].weight
        torch.testing.assert_close(magnitude.detach(), weight.norm(dim=1), rtol=1e-6, atol=0)


# --- settings ----------------------------------------------------------------------------------------------------


def settings_of(method: dict[str, Any], facts: MethodFacts, task: Task = Task.CAUSAL_LM) -> dict[str, Any]:
    config = build_adapter_config(
        Method.model_validate(method), facts, task, total_steps=30, tokenizer=Path("folder")
    )
    assert config is not None
    return dict(config.to_dict())


LORA_SETTINGS = {"rank": 8, "alpha": 16, "dropout": 0.1}
SETTINGS: dict[str, tuple[dict[str, Any], MethodFacts, dict[str, Any]]] = {
    "LoRA": (
        {"type": "LoRA", "lora": LORA_SETTINGS},
        LORA_FACTS,
        {
            "r": 8,
            "lora_alpha": 16,
            "lora_dropout": 0.1,
            "target_modules": {"q_proj", "up_proj"},
            "modules_to_save": None,
            "use_rslora": False,
            "use_dora": False,
            "bias": "none",
        },
    ),
    "an alpha that is no whole number": (
        {"type": "LoRA", "lora": {"rank": 8, "alpha": 0.5}},
        LORA_FACTS,
        {"lora_alpha": 0.5},
    ),
    "RSLoRA": (
        {"type": "LoRA", "lora": {"variant": "RSLoRA"}},
        LORA_FACTS,
        {"use_rslora": True, "use_dora": False},
    ),
    "DoRA": (
        {"type": "LoRA", "lora": {"variant": "DoRA"}},
        LORA_FACTS,
        {"use_rslora": False, "use_dora": True},
    ),
    "PiSSA, which starts by itself": (
        {"type": "LoRA", "lora": {"variant": "PiSSA"}},
        LORA_FACTS,
        {"use_rslora": False, "use_dora": False, "init_lora_weights": True},
    ),
    "whole modules": (
        {"type": "LoRA", "lora": {"targetModules": ["q_proj"], "fullyTrainedModules": ["mlp", "lm_head"]}},
        MethodFacts(target_modules=("q_proj",), fully_trained_modules=("lm_head", "mlp")),
        {"modules_to_save": ["lm_head", "mlp"]},
    ),
    "QLoRA": ({"type": "QLoRA", "lora": LORA_SETTINGS}, LORA_FACTS, {"r": 8, "lora_alpha": 16}),
    "AdaLoRA": (
        {
            "type": "AdaLoRA",
            "adaLora": {
                "initialRank": 6,
                "targetRank": 3,
                "alpha": 12,
                "dropout": 0.2,
                "intervalSteps": 7,
                "beta1": 0.8,
                "beta2": 0.7,
                "orthogonalWeight": 0.25,
            },
        },
        MethodFacts(target_modules=("q_proj",), initial_steps=4, final_steps=9),
        {
            "init_r": 6,
            "target_r": 3,
            "lora_alpha": 12,
            "lora_dropout": 0.2,
            "deltaT": 7,
            "beta1": 0.8,
            "beta2": 0.7,
            "orth_reg_weight": 0.25,
            "tinit": 4,
            "tfinal": 9,
            "total_step": 30,
            "target_modules": {"q_proj"},
        },
    ),
    "IA3": (
        {"type": "IA3"},
        IA3_FACTS,
        {"target_modules": {"k_proj", "v_proj", "down_proj"}, "feedforward_modules": {"down_proj"}},
    ),
    "prefix": (
        {"type": "PrefixTuning", "prefixTuning": {"virtualTokens": 7}},
        MethodFacts(),
        {"num_virtual_tokens": 7, "prefix_projection": False},
    ),
    "prefix through a projection": (
        {
            "type": "PrefixTuning",
            "prefixTuning": {"virtualTokens": 7, "projection": True, "projectionHiddenSize": 48},
        },
        MethodFacts(),
        {"num_virtual_tokens": 7, "prefix_projection": True, "encoder_hidden_size": 48},
    ),
    "prompt of random numbers": (
        {"type": "PromptTuning", "promptTuning": {"virtualTokens": 7}},
        MethodFacts(),
        {"num_virtual_tokens": 7, "prompt_tuning_init": "RANDOM", "tokenizer_name_or_path": None},
    ),
    "prompt of the vocabulary": (
        {"type": "PromptTuning", "promptTuning": {"init": "Vocabulary"}},
        MethodFacts(),
        {"num_virtual_tokens": 20, "prompt_tuning_init": "SAMPLE_VOCAB"},
    ),
    "prompt of words": (
        {"type": "PromptTuning", "promptTuning": {"init": "Text", "initText": TEXT}},
        MethodFacts(),
        {
            "prompt_tuning_init": "TEXT",
            "prompt_tuning_init_text": TEXT,
            "tokenizer_name_or_path": "folder",
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_become_pefts_own(name: str) -> None:
    method, facts, expected = SETTINGS[name]
    for task, task_type in ((Task.CAUSAL_LM, "CAUSAL_LM"), (Task.SEQUENCE_CLASSIFICATION, "SEQ_CLS")):
        found = settings_of(method, facts, task)
        assert {key: found[key] for key in expected} == expected
        assert found["task_type"] == task_type


def test_whole_numbers_stay_whole() -> None:
    """Readers of adapter files insist on it; 16.0 == 16 would hide the difference."""
    for name in ("LoRA", "QLoRA", "AdaLoRA"):
        method, facts, _ = SETTINGS[name]
        assert type(settings_of(method, facts)["lora_alpha"]) is int


def test_full_training_has_no_adapter() -> None:
    method = Method.model_validate({"type": "Full"})
    assert (
        build_adapter_config(method, MethodFacts(), Task.CAUSAL_LM, total_steps=1, tokenizer=Path()) is None
    )


# --- where it starts -----------------------------------------------------------------------------------------------


def virtual_tokens(base: Path, **prompt: Any) -> torch.Tensor:
    method = {"type": "PromptTuning", "promptTuning": {"virtualTokens": 40, **prompt}}
    model: Any = load_tuned(base, make_spec(method=method), MethodFacts()).model
    weights: torch.Tensor = model.prompt_encoder["default"].embedding.weight.detach()
    assert weights.shape == (40, 64)
    return weights


def test_virtual_tokens_start_from_the_words_again_and_again(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    embeddings = load_file(base / "model.safetensors")["model.embed_tokens.weight"]
    words = make_tokenizer()(TEXT).input_ids
    assert len(words) < 40
    wanted = torch.tensor((words * 4)[:40])
    assert torch.equal(virtual_tokens(base, init="Text", initText=TEXT), embeddings[wanted])


def test_virtual_tokens_start_from_words_of_the_vocabulary(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    embeddings = load_file(base / "model.safetensors")["model.embed_tokens.weight"]
    found = virtual_tokens(base, init="Vocabulary")
    nearest = torch.cdist(found, embeddings).argmin(dim=1)
    assert torch.equal(found, embeddings[nearest])
    assert len(set(nearest.tolist())) > 20
    assert torch.equal(found, virtual_tokens(base, init="Vocabulary"))
    assert not torch.isin(virtual_tokens(base, init="Random"), embeddings).all()


def test_a_projection_is_as_wide_as_the_model_unless_it_says_otherwise(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    for width in (None, 24):
        prefix = {"virtualTokens": 5, "projection": True, "projectionHiddenSize": width}
        method = {"type": "PrefixTuning", "prefixTuning": prefix}
        model: Any = load_tuned(base, make_spec(method=method), MethodFacts()).model
        assert model.prompt_encoder["default"].transform[0].out_features == (width or 64)


def test_what_is_trained_whole_is_fp32_on_a_bf16_base_and_learns(tmp_path: Path) -> None:
    write_model(tmp_path / "base", dtype=torch.bfloat16)
    method, facts = METHODS["LoRA beside whole modules"]
    cell = SmallTrainer(tmp_path, method, facts, steps=2, warmup_steps=0, training__precision="BF16")
    before = cell.trained()
    whole = {name for name in before if "modules_to_save" in name}
    assert len(whole) == 2 * 3
    assert {value.dtype for value in before.values()} == {torch.float32}
    frozen = [each for each in cell.model.parameters() if not each.requires_grad]
    assert {each.dtype for each in frozen} == {torch.bfloat16}
    cell.train()
    assert all(not torch.equal(value, before[name]) for name, value in cell.trained().items())


# --- files ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def rows(tmp_path: Path) -> PreparedRows:
    return write_rows_of_sources(tmp_path / "rows", [31], classes=len(LABELS))


def live_logits(model: PeftModel, rows: PreparedRows, task: Task, name: str) -> torch.Tensor:
    """What the head says inside the forward that is trained: at every learned position, or of the row's class."""
    found: list[torch.Tensor] = []
    packs = packs_rows(Method.model_validate(METHODS[name][0]), make_spec().training.packing)
    inputs = (pack_rows if packs else pad_rows)(rows, [0], task).model_inputs()
    hook = output_head(model.get_base_model(), task).register_forward_hook(
        # The loss is taken in their memory.
        lambda _module, _inputs, output: found.append(output.detach().clone())
    )
    model.eval()
    with torch.no_grad():
        model(**inputs)
    hook.remove()
    (logits,) = found
    return logits


def loaded_logits(adapter: Path, base: Path, rows: PreparedRows, task: Task, name: str) -> torch.Tensor:
    """What a user gets, at the same positions."""
    quantization = build_quantization(Method.model_validate(METHODS[name][0]), None, ())
    if task is Task.CAUSAL_LM:
        plain = AutoModelForCausalLM.from_pretrained(base, quantization_config=quantization)
    else:
        plain = AutoModelForSequenceClassification.from_pretrained(
            base, num_labels=len(LABELS), quantization_config=quantization
        )
    model = PeftModel.from_pretrained(plain, adapter).eval()
    ids = torch.tensor([rows.row_input_ids(0).tolist()])
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    if task is Task.SEQUENCE_CLASSIFICATION:
        return logits
    learned = torch.tensor(rows.row_learned(0).tolist()[1:], dtype=torch.bool)
    return logits[0, -ids.shape[1] :][:-1][learned]


@pytest.mark.parametrize(("name", "task"), CASES, ids=lambda value: str(value))
def test_adapter_loads_as_it_was_trained(name: str, task: Task, rows: PreparedRows, tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", tie_word_embeddings=False)
    model = make_model(base, name, task)
    wanted = live_logits(model, rows, task, name)
    save_adapter(model, tmp_path / "adapter")
    found = loaded_logits(tmp_path / "adapter", base, rows, task, name)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    names = set(load_file(tmp_path / "adapter" / ADAPTER_WEIGHTS_NAME))
    has_head = any(each.endswith("score.weight") for each in names)
    assert has_head == (task is Task.SEQUENCE_CLASSIFICATION)


@pytest.mark.parametrize(("name", "task"), CASES, ids=lambda value: str(value))
def test_files_of_equal_adapters_are_equal_and_name_no_place_but_the_base(
    name: str, task: Task, tmp_path: Path
) -> None:
    base = write_model(tmp_path / "base", tie_word_embeddings=False)
    for folder in ("one", "other"):
        save_adapter(make_model(base, name, task), tmp_path / folder)
    for file in (ADAPTER_WEIGHTS_NAME, ADAPTER_CONFIG_NAME):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == [
        ADAPTER_CONFIG_NAME,
        ADAPTER_WEIGHTS_NAME,
    ]
    text = (tmp_path / "one" / ADAPTER_CONFIG_NAME).read_text()
    assert str(tmp_path) not in text
    config = json.loads(text)
    assert config["base_model_name_or_path"] == "s3://models/base"
    assert config["inference_mode"] is True
    assert list(config) == sorted(config)
    # The words are in the weights; their text would make peft look for a tokenizer.
    assert config.get("prompt_tuning_init_text") is None


@pytest.mark.parametrize("name", [name for name in METHODS if "projected" not in name])
def test_a_new_run_begins_from_an_earlier_adapter(name: str, tmp_path: Path) -> None:
    """What prefix tuning's projection made is all that its adapter holds, which prepare refuses to go on from."""
    base = write_model(tmp_path / "base", tie_word_embeddings=False)
    earlier = make_model(base, name)
    save_adapter(earlier, tmp_path / "earlier")
    method, facts = METHODS[name]
    spec = make_spec(method=method)
    fresh = load_tuned(base, spec, facts, steps=10).model
    assert isinstance(fresh, PeftModel)
    load_adapter(fresh, tmp_path / "earlier")
    wanted = {key: each for key, each in earlier.named_parameters() if each.requires_grad}
    found = {key: each for key, each in fresh.named_parameters() if each.requires_grad}
    assert found.keys() == wanted.keys()
    assert all(torch.equal(each, wanted[key]) for key, each in found.items())
