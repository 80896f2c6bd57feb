"""What does not go together, and why: the support matrix's own words, which tests hold the API server's rules against. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tests.matrix.axes import WAYS, Combination


@dataclass(frozen=True)
class Refusal:
    """Two settings that exclude each other, by the names of their fields, and why; who says so."""

    fields: tuple[str, str]
    why: str
    holds: Callable[[Combination], bool]
    by: Literal["the API server", "the prepare stage"] = "the API server"


def _splits(cell: Combination) -> bool:
    return WAYS[cell.way].strategy in ("ZeRO1", "ZeRO2", "ZeRO3", "FSDP")


def _splits_parameters(cell: Combination) -> bool:
    return WAYS[cell.way].strategy in ("ZeRO3", "FSDP")


def _has_virtual_tokens(cell: Combination) -> bool:
    return cell.method in ("PrefixTuning", "PromptTuning")


REFUSALS = (
    Refusal(
        ("method.type", "parallelism.strategy"),
        "quantized weights cannot be split up",
        lambda cell: cell.method.startswith("QLoRA") and _splits_parameters(cell),
    ),
    Refusal(
        ("method.quantization.type", "parallelism.strategy"),
        "8-bit weights are not shown to train right with split optimizer state",
        lambda cell: cell.method == "QLoRA, INT8" and _splits(cell),
    ),
    Refusal(
        ("method.lora.variant", "parallelism.strategy"),
        "DoRA needs the norms of whole weights",
        lambda cell: cell.method == "LoRA, DoRA" and _splits_parameters(cell),
    ),
    Refusal(
        ("method.lora.variant", "parallelism.strategy"),
        "PiSSA starts from the singular vectors of whole weights",
        lambda cell: cell.method == "LoRA, PiSSA" and _splits_parameters(cell),
    ),
    Refusal(
        ("method.type", "parallelism.strategy"),
        "AdaLoRA chooses ranks by gradients that are gone after the step",
        lambda cell: cell.method == "AdaLoRA" and _splits(cell),
    ),
    Refusal(
        ("method.type", "parallelism.strategy"),
        "virtual tokens are whole tensors beside split weights",
        lambda cell: _has_virtual_tokens(cell) and _splits_parameters(cell),
    ),
    Refusal(
        ("training.precision", "parallelism.strategy"),
        "FP16 needs loss scaling, which is not shown to work where optimizer state is split up",
        lambda cell: cell.precision == "FP16" and _splits(cell),
    ),
    Refusal(
        ("training.precision", "parallelism.gpusPerNode"),
        "FP16 is a number format of GPUs",
        lambda cell: cell.precision == "FP16" and cell.device == "CPU",
    ),
    Refusal(
        ("training.optimizer", "parallelism.strategy"),
        "8-bit optimizer state cannot be split up",
        lambda cell: cell.optimizer != "AdamW" and _splits(cell),
    ),
    Refusal(
        ("training.optimizer", "parallelism.gpusPerNode"),
        "PagedAdamW8bit pages GPU memory",
        lambda cell: cell.optimizer == "PagedAdamW8bit" and cell.device == "CPU",
    ),
    Refusal(
        ("method.type", "training.gradientCheckpointing"),
        "the prefix would be lost when layers are computed again",
        lambda cell: cell.method == "PrefixTuning" and cell.checkpointing == "Enabled",
    ),
    Refusal(
        ("method.type", "training.packing"),
        "packed rows would share virtual tokens",
        lambda cell: _has_virtual_tokens(cell) and cell.packing == "Enabled",
    ),
    Refusal(
        ("training.packing", "task"),
        "a classifier reads one token of each row",
        lambda cell: cell.task == "SequenceClassification" and cell.packing == "Enabled",
    ),
    Refusal(
        ("method.lora.targetModules", "task"),
        "a classifier has a head of its own in place of lm_head",
        lambda cell: cell.task == "SequenceClassification" and cell.method == "LoRA on lm_head",
        by="the prepare stage",
    ),
)


def refusals_of(cell: Combination) -> tuple[Refusal, ...]:
    """Everything that speaks against a cell; nothing: it is supported."""
    return tuple(refusal for refusal in REFUSALS if refusal.holds(cell))


def is_supported(cell: Combination) -> bool:
    """Whether the cell's job is accepted and trains."""
    return not refusals_of(cell)
