"""Kubernetes quantities in bytes, and pods that a model certainly does not fit in."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.spec import FineTuneJobSpec, MethodType
from finetune_trainer.capacity import bytes_of, describe_snapshots, refuse_small_pods
from finetune_trainer.errors import UserError
from finetune_trainer.run_file import BaseModelFacts, MethodFacts, ModelFile
from tests.builders.jobs import make_manifest

BILLION = 1_000_000_000


@pytest.mark.parametrize(
    ("quantity", "expected"),
    [
        ("20Gi", 20 * 1024**3),
        ("1.5G", 1_500_000_000),
        ("512Mi", 512 * 1024**2),
        ("10k", 10_000),
        ("7", 7),
        ("500m", 0),
    ],
)
def test_quantities_are_read_as_kubernetes_does(quantity: str, expected: int) -> None:
    assert bytes_of(quantity) == expected


MODEL = BaseModelFacts(
    uri="s3://models/base",
    digest="0" * 64,
    files=(ModelFile(name="model.safetensors", size_bytes=2 * BILLION, etag="e"),),
    architecture="Qwen3ForCausalLM",
    model_type="qwen3",
    context_length=2048,
    vocabulary_size=1000,
    parameter_count=BILLION,
    weight_dtypes=("BF16",),
    target_modules=("q_proj",),
)


def make_run(trainable_count: int, **changes: Any) -> tuple[FineTuneJobSpec, MethodFacts]:
    disks = {"resources__ephemeralStorage": "100G", "resources__export": {"ephemeralStorage": "100G"}}
    spec = FineTuneJobSpec.model_validate(make_manifest(**{**disks, **changes})["spec"])
    quantized_count = BILLION if spec.method.type is MethodType.QLORA else 0
    return spec, MethodFacts(trainable_count=trainable_count, quantized_count=quantized_count)


def check(trainable_count: int, **changes: Any) -> None:
    spec, facts = make_run(trainable_count, **changes)
    refuse_small_pods(spec, MODEL, facts)


ON_CPU = {"parallelism__gpusPerNode": 0}
CASES: dict[str, tuple[dict[str, Any], int, str, str]] = {
    "the base model's files": (
        {"resources__export": {"ephemeralStorage": "1999M"}},
        0,
        "resources.export.ephemeralStorage",
        "the base model's files alone need 1.9 GiB",
    ),
    "the files and a checkpoint of a full run": (
        {"method__type": "Full", "resources__ephemeralStorage": "13.9G"},
        BILLION,
        "resources.ephemeralStorage",
        "the base model's files and a checkpoint alone need 13.0 GiB",
    ),
    "a frozen model on the CPU": (
        {**ON_CPU, "resources__memory": "3.9G"},
        0,
        "resources.memory",
        "the base model's weights and what is trained beside them, on the CPU, alone need 3.7 GiB",
    ),
    "a frozen model in bf16": (
        {**ON_CPU, "training__precision": "BF16", "resources__memory": "1.9G"},
        0,
        "resources.memory",
        "on the CPU, alone need 1.9 GiB",
    ),
    "a quantized model": (
        {**ON_CPU, "method__type": "QLoRA", "resources__memory": "0.5G"},
        0,
        "resources.memory",
        "on the CPU, alone need 492.0 MiB",
    ),
    "full training on the CPU": (
        {**ON_CPU, "method__type": "Full", "resources__memory": "15.9G"},
        BILLION,
        "resources.memory",
        "the model's weights, gradients and optimizer, on the CPU, alone need 14.9 GiB",
    ),
    "full training on the CPU with an 8-bit optimizer": (
        {**ON_CPU, "method__type": "Full", "training__optimizer": "AdamW8bit", "resources__memory": "9.9G"},
        BILLION,
        "resources.memory",
        "on the CPU, alone need 9.3 GiB",
    ),
    "an offloaded optimizer": (
        {
            "method__type": "Full",
            "parallelism": {"strategy": "ZeRO2", "offload": "Optimizer", "nodes": 2, "gpusPerNode": 4},
            "resources__memory": "5.9G",
        },
        BILLION,
        "resources.memory",
        "what parallelism.offload Optimizer moves to host memory alone need 5.6 GiB",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_certainly_does_not_fit_is_refused(case: str) -> None:
    changes, trainable_count, field, sentence = CASES[case]
    with pytest.raises(UserError) as refusal:
        check(trainable_count, **changes)
    assert refusal.value.message.startswith(f"{field} ")
    assert sentence in refusal.value.message
    assert f"Raise {field}, with room for what else the pod" in refusal.value.message


@pytest.mark.parametrize("case", CASES)
def test_a_little_more_is_not_certain_any_more(case: str) -> None:
    changes, trainable_count, field, _ = CASES[case]
    path = field.replace(".", "__")
    if field == "resources.export.ephemeralStorage":
        check(trainable_count, **{**changes, "resources__export": {"ephemeralStorage": "2.1G"}})
    else:
        amount = float(changes[path].removesuffix("G")) + 0.2
        check(trainable_count, **{**changes, path: f"{amount:.1f}G"})


def test_auto_refuses_only_what_no_strategy_has_room_for() -> None:
    many = {"method__type": "Full", "parallelism": {"nodes": 8, "gpusPerNode": 0}}
    check(BILLION, **many, resources__memory="3G")
    with pytest.raises(UserError, match=r"resources\.memory 1G is too small"):
        check(BILLION, **many, resources__memory="1G")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"method__type": "Full", "resources__memory": "15G"}, None),
        (
            {"method__type": "Full", "resources__memory": "14.9G"},
            "copies of the state take 11.2 GiB of a pod, and of resources.memory 14.9G at most 11.1 GiB are for them, "
            "so they go through the pod's disk. Raise resources.memory to 14.0 GiB or more.",
        ),
        ({"method__type": "Full", "resources__memory": "7.5G", "parallelism__nodes": 2}, None),
        (
            {**ON_CPU, "method__type": "Full", "resources__memory": "30G"},
            "at most 10.4 GiB are for them",
        ),
        ({**ON_CPU, "method__type": "Full", "resources__memory": "31.1G"}, None),
    ],
)
def test_prepare_says_when_a_pods_memory_has_no_room_for_copies_of_its_state(
    changes: dict[str, Any], told: str | None
) -> None:
    spec, facts = make_run(BILLION, **changes)

    advice = describe_snapshots(spec, MODEL, facts)

    assert advice is None if told is None else told in str(advice)
