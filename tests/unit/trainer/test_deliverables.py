"""What export writes for which method, and what it says that it wrote."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.job_file import JobFile
from finetune_api.names import Stage
from finetune_api.termination import ExportedFacts
from finetune_trainer.deliverables import Deliverables, decide_deliverables
from finetune_trainer.export import describe_result
from tests.builders.jobs import make_manifest

METHODS = ["Full", "LoRA", "QLoRA", "AdaLoRA", "IA3", "PrefixTuning", "PromptTuning"]


def make_job(method: str, **changes: Any) -> JobFile:
    return JobFile.model_validate(
        {
            "name": "bot",
            "namespace": "ml",
            "uid": "0123456789",
            "stage": Stage.EXPORT,
            "attempt": 1,
            "trainerImage": "trainer:test",
            "spec": make_manifest(method={"type": method}, **changes)["spec"],
        }
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("changes", "unless"),
    [
        ({}, Deliverables(adapter=True, merged=True)),
        ({"output__adapter": False}, Deliverables(adapter=False, merged=True)),
        ({"output__merged": {"enabled": False}}, Deliverables(adapter=True, merged=False)),
    ],
    ids=["by default", "without adapter", "without merging"],
)
def test_a_folder_is_written_where_it_is_wanted_and_the_method_has_it(
    method: str, changes: dict[str, Any], unless: Deliverables
) -> None:
    has_adapter, has_merged = method != "Full", method not in ("PrefixTuning", "PromptTuning")
    expected = Deliverables(
        adapter=unless.adapter and has_adapter,
        merged=unless.merged and has_merged,
    )
    assert decide_deliverables(make_job(method, **changes).spec) == expected


def test_a_job_file_that_spells_out_the_defaults_asks_for_no_more() -> None:
    spelt_out = JobFile.model_validate_json(make_job("Full").model_dump_json())
    assert decide_deliverables(spelt_out.spec) == Deliverables(adapter=False, merged=True)


@pytest.mark.parametrize(
    ("method", "facts", "sentence"),
    [
        ("LoRA", {"adapter_uri": "s3://a", "merged_uri": "s3://m"}, "The model is at s3://m."),
        ("Full", {"merged_uri": "s3://m"}, "The model is at s3://m."),
        (
            "LoRA",
            {"adapter_uri": "s3://a"},
            "The adapter is at s3://a; it is used with its base model, because output.merged.enabled is false.",
        ),
        (
            "PrefixTuning",
            {"adapter_uri": "s3://a"},
            "The adapter is at s3://a; it is used with its base model, because PrefixTuning cannot be merged.",
        ),
    ],
)
def test_the_result_is_told(method: str, facts: dict[str, str], sentence: str) -> None:
    exported = ExportedFacts(manifest_digest="0" * 64, **facts)
    assert describe_result(make_job(method), exported) == sentence
