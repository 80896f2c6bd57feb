"""What prepare resolves and refuses for each method, from the model's headers to run.json."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from finetune_api.layout import RunLayout
from finetune_trainer.errors import UserError
from finetune_trainer.run_file import BaseModelFacts, MethodFacts, RunFile, load_run_file
from finetune_trainer.storage import ObjectStore
from tests.builders.model_folders import HIDDEN, LAYERS, make_tensors, write_model_folder
from tests.integration.trainer.workbench import Workbench

ALL = ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
# Of one block: four square layers of attention, and three of twice the width.
INPUTS_AND_OUTPUTS = 4 * (HIDDEN + HIDDEN) + 3 * (HIDDEN + 2 * HIDDEN)
PARAMETERS = sum(tensor.size for tensor in make_tensors().values())
SHORT = {"globalBatchSize": 4, "epochs": 4}

METHODS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "full training": ({"type": "Full"}, {"trainable_count": PARAMETERS}),
    "LoRA": (
        {"type": "LoRA", "lora": {"rank": 4}},
        {"target_modules": ALL, "trainable_count": LAYERS * 4 * INPUTS_AND_OUTPUTS},
    ),
    "LoRA beside a module that is trained whole": (
        {"type": "LoRA", "lora": {"rank": 4, "fullyTrainedModules": ["self_attn"]}},
        {
            "target_modules": ("down_proj", "gate_proj", "up_proj"),
            "fully_trained_modules": ("self_attn",),
            "trainable_count": LAYERS * (4 * 3 * 3 * HIDDEN + 4 * HIDDEN * HIDDEN),
        },
    ),
    "QLoRA": (
        {"type": "QLoRA", "lora": {"rank": 4}},
        {
            "target_modules": ALL,
            "trainable_count": LAYERS * 4 * INPUTS_AND_OUTPUTS,
            "quantized_count": LAYERS * (4 * HIDDEN * HIDDEN + 3 * HIDDEN * 2 * HIDDEN),
        },
    ),
    "AdaLoRA": (
        {"type": "AdaLoRA", "adaLora": {"initialRank": 4, "targetRank": 2, "intervalSteps": 2}},
        {
            "target_modules": ALL,
            "trainable_count": LAYERS * 4 * (INPUTS_AND_OUTPUTS + len(ALL)),
            "initial_steps": 2,
            "final_steps": 6,
        },
    ),
    "IA3": (
        {"type": "IA3"},
        {
            "target_modules": ("down_proj", "k_proj", "v_proj"),
            "feedforward_modules": ("down_proj",),
            "trainable_count": LAYERS * (HIDDEN + HIDDEN + 2 * HIDDEN),
        },
    ),
    "prefix tuning": (
        {"type": "PrefixTuning", "prefixTuning": {"virtualTokens": 3}},
        {"trainable_count": 3 * 2 * LAYERS * HIDDEN},
    ),
    "prompt tuning": (
        {"type": "PromptTuning", "promptTuning": {"virtualTokens": 3}},
        {"trainable_count": 3 * HIDDEN},
    ),
}


@pytest.mark.parametrize("case", METHODS)
def test_method_is_resolved_in_the_run_file(
    bench: Workbench, store: ObjectStore, layout: RunLayout, case: str
) -> None:
    method, expected = METHODS[case]
    bench.run(method=method, training=SHORT)
    run_file = load_run_file(store, layout)
    assert run_file.method == MethodFacts.model_validate(expected)
    assert run_file.model.target_modules == run_file.method.target_modules


def test_model_is_described_in_the_run_file(bench: Workbench, store: ObjectStore, layout: RunLayout) -> None:
    bench.run()
    model = load_run_file(store, layout).model
    assert (model.hidden_size, model.layer_count, model.tied_embeddings) == (HIDDEN, LAYERS, True)
    assert model.parameter_count == PARAMETERS
    assert model.largest_tensor_count == max(tensor.size for tensor in make_tensors().values())


def test_run_file_of_an_earlier_release_is_read(
    bench: Workbench, store: ObjectStore, layout: RunLayout
) -> None:
    bench.run()
    new = load_run_file(store, layout).model_dump(mode="json")
    for field in ("method", "adapter", "decaySteps", "evaluationSteps"):
        del new[field]
    for field in ("hiddenSize", "layerCount", "tiedEmbeddings", "largestTensorCount"):
        del new["model"][field]
    for field in ("task", "labels", "optimizer"):
        del new["settings"][field]
    old = RunFile.model_validate(new)
    assert (old.method, old.adapter, old.decay_steps, old.evaluation_steps) == (MethodFacts(), None, 0, None)
    assert old.model.target_modules == ALL


def test_scheduler_with_a_decay_is_planned(bench: Workbench, store: ObjectStore, layout: RunLayout) -> None:
    bench.run(training={**SHORT, "scheduler": "WarmupStableDecay", "decayFraction": 0.25, "warmupSteps": 5})
    run_file = load_run_file(store, layout)
    assert (run_file.total_steps, run_file.warmup_steps, run_file.decay_steps) == (20, 5, 5)


def test_log_says_what_auto_leaves_out(bench: Workbench, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        bench.run(method__lora={"rank": 4, "fullyTrainedModules": ["mlp"]})
    assert (
        "method.lora.targetModules [auto] leaves out down_proj, gate_proj, up_proj: method.lora.fullyTrainedModules mlp "
        "trains them whole"
    ) in caplog.text


def test_classifier_has_a_head_of_its_own(bench: Workbench, store: ObjectStore, layout: RunLayout) -> None:
    bench.write_rows([{"text": f"text {number}", "label": "ab"[number % 2]} for number in range(20)])
    bench.run(task="SequenceClassification", labels=["a", "b"], method={"type": "Full"}, training=SHORT)
    run_file = load_run_file(store, layout)
    assert run_file.method.trainable_count == PARAMETERS + 2 * HIDDEN
    assert run_file.settings is not None
    assert (run_file.settings.task, run_file.settings.labels) == ("SequenceClassification", ("a", "b"))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "AdaLoRA in a run too short for its ranks": (
        {
            "method": {"type": "AdaLoRA", "adaLora": {"initialRank": 4, "targetRank": 2}},
            "training": {"maxSteps": 8},
        },
        "The run has 8 steps: ranks begin to shrink after 1 (method.adaLora.initialFraction 0.1), are settled for the "
        "last 3 (finalFraction 0.3), and between them is no step at which they change (intervalSteps 10). Lower one "
        "of the three, or raise training.epochs or training.maxSteps.",
    ),
    "warm-up and decay that overlap": (
        {"training": {"maxSteps": 10, "scheduler": "WarmupStableDecay", "warmupSteps": 10}},
        "training.warmupSteps warms up for 10 steps and training.decayFraction 0.1 decays for 1, but the run has 10 "
        "steps. Lower one of them, or raise training.epochs or training.maxSteps.",
    ),
    "virtual tokens and rows longer than the context": (
        {
            "method": {"type": "PromptTuning", "promptTuning": {"virtualTokens": 49}},
            "dataset__preparation": {"maxLength": 2000},
        },
        "dataset.preparation.maxLength 2000 and the 49 virtualTokens of the method together are longer than the model's "
        "context of 2048 tokens. Set maxLength to at most 1999, or fewer virtualTokens.",
    ),
    "an initial rank larger than a layer": (
        {"method": {"type": "AdaLoRA", "adaLora": {"initialRank": 17}}},
        "method.adaLora.initialRank 17 is larger than the smallest dimension of model.layers.0.mlp.down_proj (16 x 32). "
        "Set initialRank to at most 16.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_settings_that_fit_neither_model_nor_data_are_refused(bench: Workbench, case: str) -> None:
    changes, sentence = REFUSED[case]
    with pytest.raises(UserError) as refusal:
        bench.run(**changes)
    assert refusal.value.message == sentence


def _gpt2(bench: Workbench) -> None:
    """GPT-2 keeps its linear layers transposed, and says wte, n_embd and n_layer."""
    vocabulary = make_tensors()["model.embed_tokens.weight"].shape[0]
    write_model_folder(
        bench.model,
        architectures=["GPT2LMHeadModel"],
        model_type="gpt2",
        hidden_size=...,
        max_position_embeddings=...,
        n_embd=HIDDEN,
        n_layer=1,
        n_head=2,
        n_positions=512,
    )
    tensors = {
        "transformer.wte.weight": np.zeros((vocabulary, HIDDEN), np.float32),
        "transformer.h.0.attn.c_attn.weight": np.zeros((HIDDEN, 3 * HIDDEN), np.float32),
    }
    save_file(tensors, bench.model / "model.safetensors")


@pytest.mark.parametrize("method", ["LoRA", "QLoRA", "AdaLoRA", "IA3"])
def test_adapters_on_transposed_layers_are_refused(bench: Workbench, method: str) -> None:
    _gpt2(bench)
    with pytest.raises(UserError) as refusal:
        bench.run(method={"type": method})
    assert refusal.value.message == (
        f"method.type {method}: the linear layers of the model at s3://{bench.bucket}/models/base (model_type gpt2) are "
        "kept transposed (Conv1D), for which adapters are not done. Set method.type: Full, PrefixTuning or "
        "PromptTuning, or spec.model.source to a model such as Qwen, Llama or Mistral."
    )


def test_full_training_of_transposed_layers_is_prepared(
    bench: Workbench, store: ObjectStore, layout: RunLayout
) -> None:
    _gpt2(bench)
    bench.run(method={"type": "Full"})
    model: BaseModelFacts = load_run_file(store, layout).model
    assert (model.hidden_size, model.layer_count, model.context_length) == (HIDDEN, 1, 512)


def test_model_that_cannot_classify_is_refused(bench: Workbench) -> None:
    write_model_folder(bench.model, model_type="granite", architectures=["GraniteForCausalLM"])
    bench.write_rows([{"text": f"text {number}", "label": "ab"[number % 2]} for number in range(20)])
    with pytest.raises(
        UserError, match=r"transformers has no such head for the model at s3://.* \(model_type granite\)"
    ):
        bench.run(task="SequenceClassification", labels=["a", "b"])
