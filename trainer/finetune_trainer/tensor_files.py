"""safetensors on disk, one tensor at a time: a model's shards as one mapping, a writer that holds no shard in memory.

Equal tensors give equal files: sorted, and with one metadata key.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors import safe_open

WEIGHTS_NAME = "model.safetensors"
WEIGHTS_INDEX_NAME = "model.safetensors.index.json"
_METADATA = {"format": "pt"}
_ALIGNMENT = 8

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclass(frozen=True)
class TensorPlan:
    """A tensor before it is there."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Its size in a file."""
        return prod(self.shape) * self.dtype.itemsize


class TensorFiles:
    """The tensors of a model's folder. Files are memory-mapped: what is not in use costs no memory."""

    def __init__(self, directory: Path) -> None:
        self._stack = ExitStack()
        self._files = {path: self._open(path) for path in _weight_paths(directory)}
        self._homes = {name: file for file in self._files.values() for name in file.keys()}  # noqa: SIM118

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def __contains__(self, name: object) -> bool:
        return name in self._homes

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._homes))

    def plan(self, name: str) -> TensorPlan:
        """Type and shape of a tensor."""
        piece = self._homes[name].get_slice(name)
        return TensorPlan(name, _DTYPES[piece.get_dtype()], tuple(piece.get_shape()))

    def load(self, name: str) -> torch.Tensor:
        """One tensor."""
        tensor: torch.Tensor = self._homes[name].get_tensor(name)
        return tensor

    def _open(self, path: Path) -> Any:  # noqa: ANN401 (safetensors has no types)
        return self._stack.enter_context(safe_open(path, framework="pt"))


def write_sharded(
    directory: Path,
    plans: Mapping[str, TensorPlan],
    make: Callable[[str], torch.Tensor],
    max_shard_bytes: int,
) -> None:
    """Write the tensors that `make` returns, one at a time, as transformers names a model's files."""
    directory.mkdir(parents=True, exist_ok=True)
    shards = plan_shards([plans[name] for name in sorted(plans)], max_shard_bytes)
    file_names = _shard_names(len(shards))
    for file_name, shard in zip(file_names, shards, strict=True):
        write_tensors(directory / file_name, shard, make)
    if len(shards) > 1:
        _write_index(directory, dict(zip(file_names, shards, strict=True)))


def plan_shards(plans: list[TensorPlan], max_shard_bytes: int) -> list[list[TensorPlan]]:
    """Fill one file after the other; a larger single tensor has a file of its own."""
    shards: list[list[TensorPlan]] = [[]]
    room = max_shard_bytes
    for plan in plans:
        if shards[-1] and plan.size_bytes > room:
            shards.append([])
            room = max_shard_bytes
        shards[-1].append(plan)
        room -= plan.size_bytes
    return shards


class TensorFilePlan:
    """One safetensors file before it is written. Source of the format: safetensors, README "Format"."""

    def __init__(self, plans: Iterable[TensorPlan]) -> None:
        # As the reference writer has it: widest type first keeps each one aligned.
        self.plans = sorted(plans, key=lambda plan: (-plan.dtype.itemsize, plan.name))
        self.header = _header(self.plans)

    @property
    def size_bytes(self) -> int:
        """The whole file's size."""
        return len(self.header) + sum(plan.size_bytes for plan in self.plans)

    def offsets(self) -> Iterator[tuple[TensorPlan, int]]:
        """Each tensor and the byte of the file that it begins at."""
        position = len(self.header)
        for plan in self.plans:
            yield plan, position
            position += plan.size_bytes


def write_tensors(path: Path, plans: list[TensorPlan], make: Callable[[str], torch.Tensor]) -> None:
    """Write one safetensors file."""
    layout = TensorFilePlan(plans)
    with path.open("wb") as file:
        file.write(layout.header)
        for plan in layout.plans:
            tensor = make(plan.name)
            assert (tensor.dtype, tuple(tensor.shape)) == (plan.dtype, plan.shape), plan.name
            file.write(tensor_bytes(tensor).numpy().data)


def tensor_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor's bytes as they stand in a file, uint8 [size]."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def _header(plans: list[TensorPlan]) -> bytes:
    header: dict[str, object] = {"__metadata__": _METADATA}
    position = 0
    for plan in plans:
        end = position + plan.size_bytes
        header[plan.name] = {
            "dtype": _DTYPE_NAMES[plan.dtype],
            "shape": plan.shape,
            "data_offsets": [position, end],
        }
        position = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % _ALIGNMENT)
    return struct.pack("<Q", len(encoded)) + encoded


def _write_index(directory: Path, shards: Mapping[str, list[TensorPlan]]) -> None:
    total = sum(plan.size_bytes for shard in shards.values() for plan in shard)
    homes = {plan.name: file_name for file_name, shard in shards.items() for plan in shard}
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(homes.items()))}
    (directory / WEIGHTS_INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _shard_names(count: int) -> list[str]:
    if count == 1:
        return [WEIGHTS_NAME]
    return [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def _weight_paths(directory: Path) -> list[Path]:
    # As transformers chooses: the index only where there is no single file.
    if (directory / WEIGHTS_NAME).exists():
        return [directory / WEIGHTS_NAME]
    if (directory / WEIGHTS_INDEX_NAME).exists():
        index = json.loads((directory / WEIGHTS_INDEX_NAME).read_text(encoding="utf-8"))
        return [directory / name for name in sorted(set(index["weight_map"].values()))]
    return sorted(directory.glob("*.safetensors"))
