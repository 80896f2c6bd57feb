"""Estimates what a model, its gradients and its optimizer take of each device's memory: pure arithmetic over counts.

Source: Rajbhandari et al. 2020, ZeRO, arXiv:1910.02054, section 3: mixed-precision Adam keeps 2 + 2 + 12 bytes for each
trained parameter (weight, gradient, and fp32 weight with two moments). ZeRO-1 divides the last by the number of
processes, ZeRO-2 the last two, ZeRO-3 and FSDP all three. Without ZeRO the trained weight is itself fp32, and autocast
computes with 16-bit copies: 4 + 2 + 4 + 8. Frozen weights have no gradient and no moments. Activations, buffers and
fragmentation come on top of all this.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from finetune_api.spec import Method, MethodType, Offload, Optimizer, Precision, QuantizationType, Strategy

_FP32, _HALF = Fraction(4), Fraction(2)
_MASTER = Fraction(4)
# Two moments. bitsandbytes keeps them in 8 bits each.
_MOMENTS = {
    Optimizer.ADAM_W: Fraction(8),
    Optimizer.ADAM_W_8BIT: Fraction(2),
    Optimizer.PAGED_ADAM_W_8BIT: Fraction(2),
}
_FOUR_BITS, _EIGHT_BITS = Fraction(1, 2), Fraction(1)
# One scale for 64 weights: fp32, or, quantized in its turn, 8 bits and an fp32 for each 256 of them. Source: Dettmers
# et al. 2023, arXiv:2305.14314, section 3.
_SCALE = Fraction(4, 64)
_QUANTIZED_SCALE = Fraction(1, 64) + Fraction(4, 64 * 256)

_SPLITS_OPTIMIZER = frozenset({Strategy.ZERO1, Strategy.ZERO2, Strategy.ZERO3, Strategy.FSDP})
_SPLITS_GRADIENTS = frozenset({Strategy.ZERO2, Strategy.ZERO3, Strategy.FSDP})
_SPLITS_WEIGHTS = frozenset({Strategy.ZERO3, Strategy.FSDP})


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of one process: on its device, and of host memory for what is offloaded."""

    weights: int
    gradients: int
    optimizer: int
    host: int = 0

    @property
    def total(self) -> int:
        """Bytes on the device."""
        return self.weights + self.gradients + self.optimizer


def estimate_memory(
    parameter_count: int,
    trainable_count: int,
    method: Method,
    precision: Precision,
    world_size: int,
    strategy: Strategy,
    offload: Offload = Offload.NONE,
    optimizer: Optimizer = Optimizer.ADAM_W,
    quantized_count: int = 0,
) -> MemoryEstimate:
    """Estimate one process's memory, without activations.

    `parameter_count` are the base model's; QLoRA quantizes `quantized_count` of them, and neither embedding nor head.
    `precision` Auto counts as BF16, what GPUs take. `strategy` is one that was
    decided: Auto counts as DDP.
    """
    is_split = strategy in _SPLITS_OPTIMIZER
    compute = _FP32 if precision is Precision.FP32 else _HALF
    trained = compute if is_split else _FP32
    if method.type is MethodType.FULL:
        # What autocast computes with are copies, which the backward pass needs as well.
        weights = trainable_count * (trained if is_split or compute == _FP32 else trained + compute)
    else:
        whole_count = parameter_count - quantized_count
        weights = (
            whole_count * compute + quantized_count * quantized_bytes(method) + trainable_count * trained
        )
    gradients = trainable_count * trained
    state = trainable_count * (_MOMENTS[optimizer] + (_MASTER if is_split else 0))
    weights /= world_size if strategy in _SPLITS_WEIGHTS else 1
    gradients /= world_size if strategy in _SPLITS_GRADIENTS else 1
    state /= world_size if is_split else 1
    return _place(weights, gradients, state, offload)


def quantized_bytes(method: Method) -> Fraction:
    """Bytes of one quantized weight, with its share of the scales."""
    quantization = method.quantization
    if quantization.type is QuantizationType.INT8:
        return _EIGHT_BITS
    return _FOUR_BITS + (_QUANTIZED_SCALE if quantization.double_quantization else _SCALE)


def _place(weights: Fraction, gradients: Fraction, state: Fraction, offload: Offload) -> MemoryEstimate:
    if offload is Offload.NONE:
        return MemoryEstimate(math.ceil(weights), math.ceil(gradients), math.ceil(state))
    if offload is Offload.OPTIMIZER:
        return MemoryEstimate(math.ceil(weights), math.ceil(gradients), 0, math.ceil(state))
    return MemoryEstimate(0, math.ceil(gradients), 0, math.ceil(state + weights))
