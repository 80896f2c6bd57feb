"""Compares the base model with the pods it will have to fit in: only what is certain not to fit is refused.

prepare calls it, so that a pod with a GPU is never asked for only to be evicted or killed.
"""

from __future__ import annotations

import math

from finetune_api.spec import FineTuneJobSpec, MethodType, Optimizer, Precision, Strategy
from finetune_trainer.errors import UserError
from finetune_trainer.memory_estimate import MemoryEstimate, estimate_memory
from finetune_trainer.run_file import BaseModelFacts, MethodFacts
from finetune_trainer.snapshot_memory import LARGEST_SHARE, fits_in_memory

# What strategy Auto chooses from.
_AUTO_STRATEGIES = (Strategy.DDP, Strategy.ZERO2, Strategy.ZERO3)
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


def refuse_small_pods(spec: FineTuneJobSpec, model: BaseModelFacts, method: MethodFacts) -> None:
    """Raise UserError where files or memory that are certainly needed are larger than what a pod is given."""
    files = sum(file.size_bytes for file in model.files)
    resources = spec.resources
    saved = _saved_bytes_of_pod(spec, method)
    _require(
        "resources.ephemeralStorage",
        resources.ephemeral_storage,
        files + saved,
        "the base model's files and a checkpoint",
    )
    _require(
        "resources.export.ephemeralStorage",
        resources.export.ephemeral_storage,
        files,
        "the base model's files",
    )
    _require(
        "resources.memory",
        resources.memory,
        _host_bytes_of_pod(spec, model, method),
        _what_is_on_the_host(spec),
    )


def describe_snapshots(spec: FineTuneJobSpec, model: BaseModelFacts, method: MethodFacts) -> str | None:
    """Say that saving will hold training up, because the memory of a pod has no room for a copy of its state.

    None where it has; the ranks look again, at what is really free then.
    """
    memory, snapshots = bytes_of(spec.resources.memory), _saved_bytes_of_pod(spec, method)
    taken = min(memory, _host_bytes_of_pod(spec, model, method))
    if fits_in_memory(snapshots, memory - taken, 1):
        return None
    room, enough = int(LARGEST_SHARE * (memory - taken)), taken + math.ceil(snapshots / LARGEST_SHARE)
    return (
        f"Each save will hold training up for longer: copies of the state take {_shown(snapshots)} of a pod, and of "
        f"resources.memory {spec.resources.memory} at most {_shown(room)} are for them, so they go through the pod's "
        f"disk. Raise resources.memory to {_shown(enough)} or more."
    )


def _saved_bytes_of_pod(spec: FineTuneJobSpec, method: MethodFacts) -> int:
    return math.ceil(method.trainable_count * _saved_bytes(spec.training.optimizer) / spec.parallelism.nodes)


def _host_bytes_of_pod(spec: FineTuneJobSpec, model: BaseModelFacts, method: MethodFacts) -> int:
    """What training certainly takes of a pod's memory."""
    estimates = _possible_estimates(spec, model, method)
    if spec.parallelism.gpus_per_node == 0:
        # Nothing is moved anywhere on the CPU: its memory is the host's.
        return min(estimate.total + estimate.host for estimate in estimates)
    return min(estimate.host for estimate in estimates) * spec.parallelism.gpus_per_node


def _what_is_on_the_host(spec: FineTuneJobSpec) -> str:
    if spec.parallelism.gpus_per_node == 0:
        return _on_the_cpu(spec.method.type)
    return f"what parallelism.offload {spec.parallelism.offload.value} moves to host memory"


def _possible_estimates(
    spec: FineTuneJobSpec, model: BaseModelFacts, method: MethodFacts
) -> list[MemoryEstimate]:
    """One for each strategy that may be taken: with Auto, only what none of them has room for is certain."""
    parallelism, training = spec.parallelism, spec.training
    strategies = _AUTO_STRATEGIES if parallelism.strategy is Strategy.AUTO else (parallelism.strategy,)
    on_cpu = parallelism.gpus_per_node == 0
    precision = Precision.FP32 if on_cpu and training.precision is Precision.AUTO else training.precision
    return [
        estimate_memory(
            model.parameter_count,
            method.trainable_count,
            spec.method,
            precision,
            parallelism.nodes * max(1, parallelism.gpus_per_node),
            strategy,
            parallelism.offload,
            training.optimizer,
            method.quantized_count,
        )
        for strategy in strategies
    ]


def _saved_bytes(optimizer: Optimizer) -> int:
    """Bytes that a checkpoint holds for each trained parameter: the fp32 weight and the two moments."""
    return 12 if optimizer is Optimizer.ADAM_W else 6


def _on_the_cpu(method: MethodType) -> str:
    if method is MethodType.FULL:
        return "the model's weights, gradients and optimizer, on the CPU,"
    return "the base model's weights and what is trained beside them, on the CPU,"


def _require(field: str, quantity: str, needed_bytes: int, what: str) -> None:
    if bytes_of(quantity) < needed_bytes:
        raise UserError(
            f"{field} {quantity} is too small: {what} alone need {_shown(needed_bytes)}. "
            f"Raise {field}, with room for what else the pod writes."
        )


def _shown(count: int) -> str:
    return f"{count / 1024**3:.1f} GiB" if count >= 1024**3 else f"{count / 1024**2:.1f} MiB"
