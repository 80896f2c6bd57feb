"""The frozen base in 4 or 8 bits a weight, by bitsandbytes: the settings that transformers loads it with."""

from __future__ import annotations

import torch
from transformers import BitsAndBytesConfig

from finetune_api.spec import ComputeType, Method, MethodType, Quantization, QuantizationType

_COMPUTE_DTYPES = {
    ComputeType.BF16: torch.bfloat16,
    ComputeType.FP16: torch.float16,
    ComputeType.FP32: torch.float32,
}


def build_quantization(
    method: Method, autocast: torch.dtype | None, kept_whole: tuple[str, ...]
) -> BitsAndBytesConfig | None:
    """Build the settings; None for a base that is not quantized.

    `autocast` is the number format of the computation (None: fp32), which `computeType: Auto` takes. The output head
    and what is trained whole (`kept_whole`, names of modules) are not quantized.
    """
    if method.type is not MethodType.QLORA:
        return None
    settings, skipped = method.quantization, sorted({"lm_head", "score", *kept_whole})
    if settings.type is QuantizationType.INT8:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skipped)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=settings.type.value.lower(),
        bnb_4bit_use_double_quant=settings.double_quantization,
        bnb_4bit_compute_dtype=compute_dtype(settings, autocast),
        llm_int8_skip_modules=skipped,
    )


def compute_dtype(settings: Quantization, autocast: torch.dtype | None) -> torch.dtype:
    """What quantized weights are expanded to."""
    if settings.compute_type is ComputeType.AUTO:
        return autocast or torch.float32
    return _COMPUTE_DTYPES[settings.compute_type]
