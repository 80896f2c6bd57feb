"""Compares the base model with the pods it will have to fit in: only what is certain not to fit is refused.

prepare calls it, so that a pod with a GPU is never asked for only to be evicted or killed.
"""

from __future__ import annotations

from finetune_api.spec import FineTuneJobSpec, Precision
from finetune_trainer.errors import UserError
from finetune_trainer.run_file import BaseModelFacts

# Source: Kubernetes, "Quantity". Longest suffix first: "Ki" ends with no other one, "k" does.
_FACTORS = {
    "Ki": 1024.0,
    "Mi": 1024.0**2,
    "Gi": 1024.0**3,
    "Ti": 1024.0**4,
    "Pi": 1024.0**5,
    "m": 1e-3,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "P": 1e15,
}


def bytes_of(quantity: str) -> int:
    """Bytes of a Kubernetes quantity such as `20Gi`."""
    for suffix, factor in _FACTORS.items():
        if quantity.endswith(suffix):
            return int(float(quantity.removesuffix(suffix)) * factor)
    return int(float(quantity))


def refuse_small_pods(spec: FineTuneJobSpec, model: BaseModelFacts) -> None:
    """Raise UserError where the model's files, or its weights in memory, are larger than what a pod is given."""
    disk = sum(file.size_bytes for file in model.files)
    resources = spec.resources
    _require("resources.ephemeralStorage", resources.ephemeral_storage, disk, "the base model's files")
    _require(
        "resources.export.ephemeralStorage",
        resources.export.ephemeral_storage,
        disk,
        "the base model's files",
    )
    if spec.parallelism.gpus_per_node == 0:
        weight_bytes = 2 if spec.training.precision is Precision.BF16 else 4
        memory = model.parameter_count * weight_bytes
        _require("resources.memory", resources.memory, memory, "the base model's weights, on the CPU,")


def _require(field: str, quantity: str, needed_bytes: int, what: str) -> None:
    if bytes_of(quantity) < needed_bytes:
        raise UserError(
            f"{field} {quantity} is too small: {what} alone need {_shown(needed_bytes)}. "
            f"Raise {field}, with room for what else the pod writes."
        )


def _shown(count: int) -> str:
    return f"{count / 1024**3:.1f} GiB" if count >= 1024**3 else f"{count / 1024**2:.1f} MiB"
