"""Puts a LoRA adapter into the base model's weights, one tensor at a time, from the unquantised base.

merged = cast(base + scaling · B·A), everything before the cast in fp32. What the adapter does not touch stays as it is.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from finetune_api.spec import MergedPrecision
from finetune_trainer.adapters import ADAPTER_CONFIG_NAME, ADAPTER_WEIGHTS_NAME
from finetune_trainer.errors import UserError
from finetune_trainer.tensor_files import TensorFiles, TensorPlan, write_sharded

# What peft puts before a module's name, and behind it.
_PREFIX = "base_model.model."
_A_SUFFIX, _B_SUFFIX = ".lora_A.weight", ".lora_B.weight"
_WEIGHT_SUFFIX = ".weight"
_OUTPUT_HEAD, _INPUT_EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"

_TARGET_DTYPES = {MergedPrecision.BF16: torch.bfloat16, MergedPrecision.FP32: torch.float32}
_SHARD_UNITS = {"MB": 10**6, "GB": 10**9}


@dataclass(frozen=True)
class LoraDelta:
    """What the adapter adds to one weight: A is [rank, in], B is [out, rank]."""

    a: torch.Tensor
    b: torch.Tensor
    scaling: float

    def compute(self) -> torch.Tensor:
        """The difference, fp32 [out, in]."""
        return (self.b.float() @ self.a.float()) * self.scaling


class MergedModel:
    """The merged tensors, made on demand."""

    def __init__(
        self,
        base: TensorFiles,
        deltas: Mapping[str, LoraDelta],
        precision: MergedPrecision,
        *,
        tied_embeddings: bool,
    ) -> None:
        missing = sorted(name for name in deltas if name not in base)
        if missing:
            raise UserError(
                f"The adapter changes {missing[0]}, which the base model's files do not have under that name, so it "
                "cannot be merged. Set spec.output.merged.enabled to false: the adapter works without merging."
            )
        self._base = base
        self._deltas = deltas
        self._dtype = _TARGET_DTYPES.get(precision)
        dropped = {_OUTPUT_HEAD} if tied_embeddings and _INPUT_EMBEDDING in base else set()
        self.plans = {name: self._plan(name) for name in base if name not in dropped}

    @property
    def adapted_dtypes(self) -> set[torch.dtype]:
        """Number formats of the weights that the adapter changed."""
        return {self.plans[name].dtype for name in self._deltas}

    @property
    def main_dtype(self) -> torch.dtype:
        """The number format of most of the weights."""
        sizes: Counter[torch.dtype] = Counter()
        for plan in self.plans.values():
            sizes[plan.dtype] += plan.size_bytes
        return sizes.most_common(1)[0][0]

    def tensor(self, name: str) -> torch.Tensor:
        """One merged tensor."""
        weight, delta = self._base.load(name), self._deltas.get(name)
        if delta is not None:
            weight = weight.float() + delta.compute()
        return weight.to(self.plans[name].dtype)

    def _plan(self, name: str) -> TensorPlan:
        plan = self._base.plan(name)
        is_cast = self._dtype is not None and plan.dtype.is_floating_point
        return TensorPlan(name, self._dtype, plan.shape) if is_cast and self._dtype else plan


def load_deltas(adapter_directory: Path) -> dict[str, LoraDelta]:
    """Read an adapter as peft wrote it; keys are the names of the weights it changes."""
    config = json.loads((adapter_directory / ADAPTER_CONFIG_NAME).read_text(encoding="utf-8"))
    scaling = config["lora_alpha"] / config["r"]
    weights = load_file(adapter_directory / ADAPTER_WEIGHTS_NAME)
    modules = {name.removesuffix(_A_SUFFIX) for name in weights if name.endswith(_A_SUFFIX)}
    expected = {module + suffix for module in modules for suffix in (_A_SUFFIX, _B_SUFFIX)}
    if weights.keys() != expected:
        odd = sorted(weights.keys() ^ expected)[0]
        raise UserError(
            f"The adapter holds {odd}, which is not part of a plain LoRA and cannot be merged. "
            "Set spec.output.merged.enabled to false."
        )
    return {
        module.removeprefix(_PREFIX) + _WEIGHT_SUFFIX: LoraDelta(
            weights[module + _A_SUFFIX], weights[module + _B_SUFFIX], scaling
        )
        for module in sorted(modules)
    }


def write_merged(model: MergedModel, directory: Path, max_shard_size: str) -> None:
    """Write the merged weights in bounded memory: one tensor at a time."""
    write_sharded(directory, model.plans, model.tensor, parse_shard_size(max_shard_size))


def parse_shard_size(text: str) -> int:
    """Bytes of `5GB` or `500MB`."""
    return int(text[:-2]) * _SHARD_UNITS[text[-2:]]
