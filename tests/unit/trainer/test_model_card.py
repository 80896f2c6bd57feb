"""The card says which method made the model, of what, how it was checked and how it is loaded."""

from __future__ import annotations

import ast
from typing import Any

import pytest

from finetune_api.job_file import JobFile
from finetune_api.names import Stage
from finetune_api.termination import TrainedFacts
from finetune_trainer.model_card import Proof, build_card
from finetune_trainer.reloaded_adapter import AdapterCheck
from finetune_trainer.run_file import BaseModelFacts, DatasetFacts, RunFile
from finetune_trainer.verification import LogitComparison
from tests.builders.jobs import make_manifest

RUN_FILE = RunFile(
    run="bot-01234567",
    job_uid="0123456789",
    model=BaseModelFacts(
        uri="s3://models/base",
        digest="0" * 64,
        files=(),
        architecture="Qwen2ForCausalLM",
        model_type="qwen2",
        context_length=512,
        vocabulary_size=264,
        parameter_count=1000,
        weight_dtypes=("BF16",),
        target_modules=("q_proj", "v_proj"),
    ),
    dataset=DatasetFacts(
        digest="0" * 64,
        prepared_uri="s3://models/prepared",
        rows_used=40,
        rows_dropped=0,
        tokens=900,
        learned_tokens=500,
        longest_row_tokens=30,
    ),
    total_steps=10,
    steps_per_epoch=5,
    warmup_steps=1,
    chat_template="",
    mask_source="",
)
COMPARISON = LogitComparison(rows=32, tokens=900, max_difference=1.5e-6, adapter_effect=2.5, tolerance=1e-4)
MERGED = Proof(comparison=COMPARISON)
RELOADED = Proof(adapter=AdapterCheck(tensors=1, rows=16))


def card(method: dict[str, Any], proof: Proof, *, merged: bool, **changes: Any) -> str:
    job = JobFile.model_validate(
        {
            "name": "bot",
            "namespace": "ml",
            "uid": "0123456789",
            "stage": Stage.EXPORT,
            "attempt": 1,
            "trainerImage": "trainer:test",
            "spec": make_manifest(method=method, **changes)["spec"],
        }
    )
    return build_card(job, RUN_FILE, TrainedFacts(step=10, loss=0.5), proof, merged=merged)


@pytest.mark.parametrize(
    ("method", "proof", "merged", "sentences"),
    [
        (
            {"type": "Full"},
            MERGED,
            True,
            ["Full fine-tuning: every weight was trained", "logits differ from those of the trained weights"],
        ),
        (
            {"type": "LoRA", "lora": {"rank": 8, "alpha": 12.5}},
            MERGED,
            True,
            [
                "LoRA, rank 8, alpha 12.5, on q_proj, v_proj |",
                "logits differ from those of base + adapter by at most",
            ],
        ),
        ({"type": "LoRA", "lora": {"variant": "RSLoRA"}}, MERGED, True, ["| rsLoRA, rank 16"]),
        ({"type": "LoRA", "lora": {"variant": "DoRA"}}, MERGED, True, ["| DoRA, rank 16"]),
        (
            {"type": "LoRA", "lora": {"variant": "PiSSA"}},
            MERGED,
            False,
            ["LoRA (PiSSA, exported as plain LoRA of twice the rank), rank 16"],
        ),
        (
            {"type": "LoRA", "lora": {"fullyTrainedModules": ["lm_head"]}},
            MERGED,
            True,
            ["on q_proj, v_proj; trained whole: lm_head"],
        ),
        (
            {"type": "QLoRA"},
            MERGED,
            True,
            [
                "| QLoRA, rank 16",
                "quantized to 4 bits (NF4); a merged model is made from the unquantized base",
            ],
        ),
        (
            {"type": "QLoRA", "quantization": {"type": "INT8"}, "lora": {"variant": "DoRA"}},
            MERGED,
            True,
            ["| QLoRA (DoRA), rank 16", "quantized to 8 bits (INT8)"],
        ),
        ({"type": "AdaLoRA"}, MERGED, True, ["AdaLoRA, rank 12 shrunk to 8 on average, alpha 32, on q_proj"]),
        ({"type": "IA3"}, MERGED, True, ["IA3, one factor for each activation, on q_proj, v_proj"]),
        (
            {"type": "PrefixTuning"},
            RELOADED,
            False,
            [
                "Prefix tuning, 20 virtual tokens in every layer",
                "loaded again, its 1 tensors are as trained, logits of 16 rows finite; it cannot be merged",
            ],
        ),
        (
            {"type": "PromptTuning", "promptTuning": {"virtualTokens": 7}},
            RELOADED,
            False,
            ["Prompt tuning, 7 virtual tokens before the input"],
        ),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else "",
)
def test_card_describes_the_method(
    method: dict[str, Any], proof: Proof, merged: bool, sentences: list[str]
) -> None:
    text = card(method, proof, merged=merged)
    for sentence in sentences:
        assert sentence in text
    assert ("quantized" in text) == (method["type"] == "QLoRA")


@pytest.mark.parametrize("merged", [True, False], ids=["merged", "adapter"])
def test_card_of_a_classifier_names_its_classes_and_loads_it_as_one(merged: bool) -> None:
    text = card(
        {"type": "LoRA"}, MERGED, merged=merged, task="SequenceClassification", labels=["good", "a|b"]
    )
    assert r"Classification into good, a\|b, in this order" in text
    assert "AutoModelForSequenceClassification.from_pretrained" in text
    assert ("num_labels=2" in text) != merged
    ast.parse(text.split("```python\n")[1].split("```")[0])


def test_card_of_an_adapter_beside_a_merged_model_claims_no_check_of_its_own() -> None:
    assert "Verified" not in card({"type": "LoRA"}, MERGED, merged=False)
