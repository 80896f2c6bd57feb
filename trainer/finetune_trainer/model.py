"""The base model in memory: its number format, its packed attention, its chunked loss."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from finetune_api.spec import Precision
from finetune_trainer.attention import PACKED_ATTENTION, register_packed_attention
from finetune_trainer.errors import UserError
from finetune_trainer.losses import replace_forward

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ComputePrecision:
    """Number format of the frozen weights, and whether computation is autocast to bf16."""

    weights: torch.dtype
    autocast_bf16: bool


def decide_precision(wanted: Precision, device_type: str) -> ComputePrecision:
    """BF16 on GPUs and FP32 on CPUs unless the job says otherwise. Trained parameters are FP32 in any case."""
    is_bf16 = wanted is Precision.BF16 or (wanted is Precision.AUTO and device_type == "cuda")
    return ComputePrecision(torch.bfloat16 if is_bf16 else torch.float32, autocast_bf16=is_bf16)


def load_base_model(directory: Path, weights: torch.dtype, device: torch.device) -> PreTrainedModel:
    """Load a causal LM from a folder of safetensors, ready for packed rows. No code of the model's own is run."""
    register_packed_attention()
    try:
        model = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=weights,
            attn_implementation=PACKED_ATTENTION,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        )
    except (ValueError, KeyError, OSError) as error:
        raise UserError(_unloadable(directory, error)) from error
    model.config.use_cache = False
    replace_forward(model)
    model.to(device)
    return model


def _unloadable(directory: Path, error: Exception) -> str:
    architectures = AutoConfig.from_pretrained(directory, local_files_only=True).architectures
    return (
        f"The base model (architecture {', '.join(architectures or ['unknown'])}) cannot be loaded: {error}. "
        "Set spec.model.source to a causal language model that transformers knows, saved as safetensors."
    )
