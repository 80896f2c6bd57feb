"""The base model in memory: its number format, its attention over packed rows, its chunked loss."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    PreTrainedModel,
)

from finetune_api.spec import FineTuneJobSpec, Method, MethodType, Precision, Switch, Task
from finetune_trainer.attention import PACKED_ATTENTION, register_packed_attention
from finetune_trainer.errors import UserError
from finetune_trainer.losses import replace_forward
from finetune_trainer.tensor_names import CLASS_HEAD

# Padded rows carry a mask, which transformers' own attention reads.
_PADDED_ATTENTION = "sdpa"
_VIRTUAL_TOKENS = (MethodType.PREFIX_TUNING, MethodType.PROMPT_TUNING)
_DTYPES = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16, Precision.FP32: None}


@dataclass(frozen=True)
class ComputePrecision:
    """Number format of the frozen weights, and what computation is autocast to; None: it stays fp32."""

    weights: torch.dtype
    autocast: torch.dtype | None

    @property
    def name(self) -> str:
        """The number format of the computation: bf16, fp16 or fp32."""
        return {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(self.autocast or torch.float32, "fp32")


def decide_precision(
    wanted: Precision, device_type: str, method: MethodType = MethodType.LORA
) -> ComputePrecision:
    """BF16 on GPUs and FP32 on CPUs unless the job says otherwise. Trained parameters are FP32 in any case.

    Full trains all: a step of 2e-5 is lost in the rounding of a 16-bit weight.
    """
    if wanted is Precision.AUTO:
        wanted = Precision.BF16 if device_type == "cuda" else Precision.FP32
    autocast = _DTYPES[wanted]
    frozen = torch.float32 if method is MethodType.FULL else autocast or torch.float32
    return ComputePrecision(frozen, autocast)


def packs_rows(method: Method, packing: Switch) -> bool:
    """Whether rows are computed end to end. Virtual tokens stand before each row, which packed rows would share."""
    return packing is not Switch.DISABLED and method.type not in _VIRTUAL_TOKENS


@dataclass(frozen=True)
class BaseModelSettings:
    """How the base model is loaded."""

    weights: torch.dtype
    device: torch.device
    task: Task = Task.CAUSAL_LM
    labels: Sequence[str] = ()
    is_packed: bool = True
    quantization: BitsAndBytesConfig | None = None
    recomputes_activations: bool = False


def load_base_model(directory: Path, settings: BaseModelSettings) -> PreTrainedModel:
    """Load a model from a folder of safetensors, ready for our rows. No code of the model's own is run."""
    register_packed_attention()
    try:
        model = _load(directory, settings)
    except (ValueError, KeyError, OSError) as error:
        raise UserError(_unloadable(directory, error)) from error
    model.config.use_cache = False
    if settings.recomputes_activations:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    replace_forward(model, settings.task)
    if settings.quantization is None:
        model.to(settings.device)
    return model


def recomputes_activations(spec: FineTuneJobSpec, device_type: str, *, is_tight: bool) -> bool:
    """Whether activations are computed twice instead of kept. Auto does so on GPUs whose memory is `is_tight`."""
    wanted = spec.training.gradient_checkpointing
    if wanted is Switch.AUTO:
        # The prefix would be lost when layers are computed again.
        return device_type == "cuda" and is_tight and spec.method.type is not MethodType.PREFIX_TUNING
    return wanted is Switch.ENABLED


def _load(directory: Path, settings: BaseModelSettings) -> PreTrainedModel:
    kind, more = AutoModelForCausalLM, {}
    if settings.task is Task.SEQUENCE_CLASSIFICATION:
        kind = AutoModelForSequenceClassification
        names = dict(enumerate(settings.labels))
        more = {"num_labels": len(names), "id2label": names, "label2id": {n: i for i, n in names.items()}}
    if settings.quantization is not None:
        more |= {"quantization_config": settings.quantization, "device_map": {"": settings.device}}
    model: PreTrainedModel
    model, report = kind.from_pretrained(
        directory,
        dtype=settings.weights,
        attn_implementation=PACKED_ATTENTION if settings.is_packed else _PADDED_ATTENTION,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
        **more,
    )
    _refuse_missing(model, set(report["missing_keys"]) - {CLASS_HEAD})
    return model


def _refuse_missing(model: PreTrainedModel, missing: Collection[str]) -> None:
    # transformers fills them with random numbers, and says so in a line of the log.
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(
            f"The base model's files lack {min(missing)}{others}, which its architecture {type(model).__name__} has: "
            "they are incomplete, or config.json names another architecture than the weights are of. Upload the "
            "folder that save_pretrained writes, or set spec.model.source to another model."
        )


def _unloadable(directory: Path, error: Exception) -> str:
    architectures = AutoConfig.from_pretrained(directory, local_files_only=True).architectures
    return (
        f"The base model (architecture {', '.join(architectures or ['unknown'])}) cannot be loaded: {error}. "
        "Set spec.model.source to a causal language model that transformers knows, saved as safetensors."
    )
