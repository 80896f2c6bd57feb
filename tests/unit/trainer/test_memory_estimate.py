"""How much memory weights, gradients and optimizer take: the figures of the ZeRO paper, and of quantized models."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.spec import Method, Offload, Optimizer, Precision, Strategy
from finetune_trainer.memory_estimate import MemoryEstimate, estimate_memory

BILLION = 1_000_000_000
FULL, LORA = Method.model_validate({"type": "Full"}), Method.model_validate({"type": "LoRA"})
TRAINED = BILLION // 100


def estimate(method: Method, strategy: Strategy = Strategy.DDP, **settings: Any) -> MemoryEstimate:
    trainable = BILLION if method is FULL else TRAINED
    arguments = {"precision": Precision.BF16, "world_size": 64, **settings}
    return estimate_memory(BILLION, trainable, method, strategy=strategy, **arguments)


# Rajbhandari et al. 2020, figure 1: 7.5 billion parameters on 64 devices take 120, 31.4, 16.6 and 1.9 GB.
@pytest.mark.parametrize(
    ("strategy", "gigabytes"),
    [
        # And the copies that autocast computes with, 15 GB: the paper's DDP has 16-bit weights.
        (Strategy.DDP, 120 + 15),
        (Strategy.ZERO1, 31.4),
        (Strategy.ZERO2, 16.6),
        (Strategy.ZERO3, 1.9),
        (Strategy.FSDP, 1.9),
    ],
)
def test_full_training_takes_what_the_paper_says(strategy: Strategy, gigabytes: float) -> None:
    count = 7_500_000_000
    total = estimate_memory(count, count, FULL, Precision.BF16, 64, strategy).total
    assert total / 1e9 == pytest.approx(gigabytes, abs=0.06)


PARTS: dict[str, tuple[MemoryEstimate, tuple[float, float, float, float]]] = {
    "DDP keeps fp32 weights": (estimate(FULL), (6, 4, 8, 0)),
    "fp32 throughout": (estimate(FULL, precision=Precision.FP32), (4, 4, 8, 0)),
    "8-bit moments": (estimate(FULL, optimizer=Optimizer.ADAM_W_8BIT), (6, 4, 2, 0)),
    "fp32 throughout under ZeRO": (estimate(FULL, Strategy.ZERO1, precision=Precision.FP32, world_size=1), (4, 4, 12, 0)),
    "a frozen bf16 model beside an adapter": (estimate(LORA), (2.04, 0.04, 0.08, 0)),
    "a frozen fp32 model": (estimate(LORA, precision=Precision.FP32), (4.04, 0.04, 0.08, 0)),
    "Auto is BF16": (estimate(LORA, precision=Precision.AUTO), (2.04, 0.04, 0.08, 0)),
    "an optimizer in host memory": (
        estimate(FULL, Strategy.ZERO2, world_size=2, offload=Offload.OPTIMIZER),
        (2, 1, 0, 6),
    ),
    "parameters in host memory too": (
        estimate(FULL, Strategy.ZERO3, world_size=2, offload=Offload.OPTIMIZER_AND_PARAMETERS),
        (0, 1, 0, 7),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", PARTS)
def test_parts(case: str) -> None:
    found, gigabytes = PARTS[case]
    parts = (found.weights, found.gradients, found.optimizer, found.host)
    assert [part / 1e9 for part in parts] == pytest.approx(list(gigabytes))
    assert found.total == sum(parts[:3])


@pytest.mark.parametrize(
    ("quantization", "bits"),
    [
        pytest.param({"type": "NF4"}, 4.127, id="NF4 with quantized scales"),
        pytest.param({"type": "FP4", "doubleQuantization": False}, 4.5, id="FP4"),
        pytest.param({"type": "INT8"}, 8, id="INT8"),
    ],
)
def test_quantized_weights_take_what_the_paper_says(quantization: dict[str, Any], bits: float) -> None:
    """Dettmers et al. 2023, section 3: quantized scales cost 0.127 bits a weight, others 0.5."""
    method = Method.model_validate({"type": "QLoRA", "quantization": quantization})
    weights = estimate_memory(
        BILLION, 0, method, Precision.BF16, 1, Strategy.DDP, quantized_count=BILLION
    ).weights
    assert weights * 8 / BILLION == pytest.approx(bits, abs=0.001)


def test_embedding_and_head_of_a_quantized_model_keep_16_bits() -> None:
    method = Method.model_validate({"type": "QLoRA", "quantization": {"type": "INT8"}})
    estimated = estimate_memory(
        BILLION, TRAINED, method, Precision.BF16, 1, Strategy.DDP, quantized_count=BILLION // 4 * 3
    )
    assert estimated.weights == BILLION // 4 * (3 * 1 + 1 * 2) + TRAINED * 4
