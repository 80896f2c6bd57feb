"""The axes of the support matrix, and a cell as their values: methods with their settings, strategies, number formats. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

_RANK = 4


@dataclass(frozen=True)
class Variant:
    """A method with the settings that make a difference; `block` is `spec.method` as a job holds it."""

    name: str
    block: Mapping[str, Any]


@dataclass(frozen=True)
class Way:
    """How processes share the work; `gpus` of a pod that asks for it."""

    name: str
    strategy: str
    offload: str = "None"
    gpus: int = 8


def _lora(**settings: Any) -> dict[str, Any]:
    return {"type": "LoRA", "lora": {"rank": _RANK, **settings}}


def _qlora(quantization: str, **settings: Any) -> dict[str, Any]:
    return {"type": "QLoRA", "lora": {"rank": _RANK}, "quantization": {"type": quantization, **settings}}


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("Full", {"type": "Full"}),
        Variant("LoRA", _lora()),
        Variant("LoRA, RSLoRA", _lora(variant="RSLoRA")),
        Variant("LoRA, DoRA", _lora(variant="DoRA")),
        Variant("LoRA, PiSSA", _lora(variant="PiSSA")),
        Variant("LoRA + self_attn whole", _lora(fullyTrainedModules=["self_attn"])),
        Variant("LoRA + mlp whole", _lora(fullyTrainedModules=["mlp"])),
        Variant("LoRA on lm_head", _lora(targetModules=["q_proj", "lm_head"])),
        Variant("QLoRA, NF4", _qlora("NF4")),
        Variant("QLoRA, FP4", _qlora("FP4", doubleQuantization=False)),
        Variant("QLoRA, INT8", _qlora("INT8", doubleQuantization=False)),
        Variant(
            "AdaLoRA",
            {"type": "AdaLoRA", "adaLora": {"initialRank": 6, "targetRank": 3, "intervalSteps": 2}},
        ),
        Variant("IA3", {"type": "IA3"}),
        Variant("PrefixTuning", {"type": "PrefixTuning", "prefixTuning": {"virtualTokens": 4}}),
        Variant("PromptTuning", {"type": "PromptTuning", "promptTuning": {"virtualTokens": 4}}),
    )
}
WAYS = {
    way.name: way
    for way in (
        Way("one process", "DDP", gpus=1),
        Way("DDP", "DDP"),
        Way("ZeRO1", "ZeRO1"),
        Way("ZeRO2", "ZeRO2"),
        Way("ZeRO2, offload Optimizer", "ZeRO2", "Optimizer"),
        Way("ZeRO3", "ZeRO3"),
        Way("ZeRO3, offload OptimizerAndParameters", "ZeRO3", "OptimizerAndParameters"),
        Way("FSDP", "FSDP"),
        Way("FSDP, offload OptimizerAndParameters", "FSDP", "OptimizerAndParameters"),
    )
}
PRECISIONS = ("FP32", "BF16", "FP16")
OPTIMIZERS = ("AdamW", "AdamW8bit", "PagedAdamW8bit")
_ALWAYS_NAMED = ("method", "way", "precision")


@dataclass(frozen=True)
class Combination:
    """One cell, by the names of the axes' values; what is not named is the API's default."""

    method: str = "LoRA"
    way: str = "one process"
    precision: str = "FP32"
    task: str = "CausalLM"
    optimizer: str = "AdamW"
    checkpointing: str = "Auto"
    packing: str = "Auto"
    device: str = "GPU"

    @property
    def name(self) -> str:
        """Its values, those that are defaults left out."""
        usual = asdict(Combination())
        more = [
            value if key in ("task", "optimizer") else f"{key} {value}"
            for key, value in asdict(self).items()
            if key not in _ALWAYS_NAMED and value != usual[key]
        ]
        return " · ".join([self.method, self.way, self.precision, *more])

    def changes(self) -> dict[str, Any]:
        """The cell as a job's changes, for make_manifest."""
        way = WAYS[self.way]
        labels = {"labels": ["good", "bad", "neither"]} if self.task == "SequenceClassification" else {}
        return {
            "task": self.task,
            **labels,
            "method": dict(VARIANTS[self.method].block),
            "training__precision": self.precision,
            "training__optimizer": self.optimizer,
            "training__gradientCheckpointing": self.checkpointing,
            "training__packing": self.packing,
            "parallelism__strategy": way.strategy,
            "parallelism__offload": way.offload,
            "parallelism__gpusPerNode": way.gpus if self.device == "GPU" else 0,
        }
