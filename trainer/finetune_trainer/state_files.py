"""Trained state as safetensors: each rank's share of parameters and moments, by name; read back whole or in part.

Ranks hold what their strategy gives them: whole tensors, or ranges of flattened ones. A file says which, so that a
run may go on with another number of ranks and another strategy, and each rank reads only what it needs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors import safe_open

from finetune_trainer.checkpoint_files import OPTIMIZER, PARAMETERS, rank_file_name
from finetune_trainer.tensor_files import TensorFilePlan, TensorPlan, write_tensors

_SEPARATOR = "|"
_COUNT = "step"
_BEGIN = re.compile(r"\|@(\d+)$")

Reader = Callable[[str], torch.Tensor]


@dataclass(frozen=True)
class Fragment:
    """A tensor of a rank's share: a parameter (`key` is empty), or one of its moments by torch's name.

    `begin`: the first element that it holds of the flattened whole; None where it is the whole, in its own shape.
    """

    name: str
    tensor: torch.Tensor
    key: str = ""
    begin: int | None = None

    @property
    def full_name(self) -> str:
        """Its name in the file."""
        return full_name(self.name, self.key, self.begin)


def full_name(name: str, key: str = "", begin: int | None = None) -> str:
    """What a tensor is called in a file of state."""
    moment = f"{_SEPARATOR}{key}" if key else ""
    return f"{name}{moment}" if begin is None else f"{name}{moment}{_SEPARATOR}@{begin}"


def plan_state_file(fragments: Iterable[Fragment]) -> TensorFilePlan:
    """Lay the share out as one file."""
    return TensorFilePlan(
        [TensorPlan(each.full_name, each.tensor.dtype, tuple(each.tensor.shape)) for each in fragments]
    )


def save_state(directory: Path, fragments: Sequence[Fragment], rank: int) -> None:
    """Write a rank's share."""
    for kind in (PARAMETERS, OPTIMIZER):
        own = {each.full_name: each.tensor.cpu() for each in fragments if is_of_kind(each, kind)}
        plans = [TensorPlan(name, each.dtype, tuple(each.shape)) for name, each in own.items()]
        write_tensors(directory / rank_file_name(kind, rank), plans, own.__getitem__)


def is_of_kind(fragment: Fragment, kind: str) -> bool:
    """Whether it stands in the file of parameters, or in that of moments."""
    return (fragment.key == "") is (kind == PARAMETERS)


@dataclass(frozen=True)
class _Place:
    """Where a piece of a tensor stands: elements `begin` to `end` of the whole; None where it stands whole."""

    file: Any
    full_name: str
    begin: int
    end: int | None

    def read(self) -> torch.Tensor:
        """What stands there, [length] or in its own shape."""
        tensor: torch.Tensor = self.file.get_tensor(self.full_name)
        return tensor


class SavedState:
    """The state in a checkpoint's folder, as the ranks that took it left it. Files are mapped, not read."""

    def __init__(self, directory: Path) -> None:
        self._stack = ExitStack()
        self._places: dict[str, list[_Place]] = {}
        self._keys: dict[str, list[str]] = {}
        for kind in (PARAMETERS, OPTIMIZER):
            for path in sorted(directory.glob(f"{kind}-*.safetensors")):
                self._add(self._stack.enter_context(safe_open(path, framework="pt")), kind)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters that it has values of."""
        return tuple(self._keys)

    def keys(self, name: str) -> tuple[str, ...]:
        """The moments of a parameter; of one that no rank of this pod holds a part of, those that others have."""
        return tuple(self._keys.get(name) or next(iter(self._keys.values())))

    def count(self, name: str) -> torch.Tensor:
        """The steps that a parameter has taken; of one that no rank of this pod holds a part of, those of another."""
        key = full_name(name, _COUNT)
        return self._places[key][0].read() if key in self._places else next(self._counts())

    def _counts(self) -> Iterator[torch.Tensor]:
        ending = full_name("", _COUNT)
        return (places[0].read() for key, places in self._places.items() if key.endswith(ending))

    def whole(self, name: str, shape: Sequence[int], key: str = "") -> torch.Tensor:
        """A parameter, or a moment, of which `shape` is the parameter's: moments that are no larger keep their own."""
        places = self._places[full_name(name, key)]
        if places[0].end is None:
            return places[0].read()
        return self.part(name, 0, prod(shape), key).reshape(tuple(shape))

    def part(self, name: str, begin: int, length: int, key: str = "") -> torch.Tensor:
        """Elements of the flattened parameter, or moment, [length]."""
        found: torch.Tensor | None = None
        filled = 0
        for place, piece in self._overlapping(full_name(name, key), begin, length):
            if piece.numel() == length:
                return piece
            found = torch.empty(length, dtype=piece.dtype) if found is None else found
            found[place : place + piece.numel()] = piece
            filled += piece.numel()
        assert found is not None and filled == length, (
            f"{name} {key}: {filled} of {length} elements are saved"
        )
        return found

    def _overlapping(self, whole_name: str, begin: int, length: int) -> Iterator[tuple[int, torch.Tensor]]:
        """Pieces of the wanted range, and where in it each belongs."""
        for place in self._places[whole_name]:
            if place.end is None:
                yield 0, place.read().reshape(-1)[begin : begin + length]
                continue
            first, last = max(begin, place.begin), min(begin + length, place.end)
            if first < last:
                piece = place.file.get_slice(place.full_name)
                yield first - begin, piece[first - place.begin : last - place.begin]

    def _add(self, file: Any, kind: str) -> None:  # noqa: ANN401 (safetensors has no types)
        for saved_name in file.keys():  # noqa: SIM118 (no mapping)
            match = _BEGIN.search(saved_name)
            whole_name = saved_name[: match.start()] if match else saved_name
            if match:
                (length,) = file.get_slice(saved_name).get_shape()
                begin = int(match[1])
                place = _Place(file, saved_name, begin, begin + length)
            else:
                place = _Place(file, saved_name, 0, None)
            self._places.setdefault(whole_name, []).append(place)
            self._note(whole_name, kind)

    def _note(self, whole_name: str, kind: str) -> None:
        if kind == PARAMETERS:
            self._keys.setdefault(whole_name, [])
            return
        name, _, key = whole_name.rpartition(_SEPARATOR)
        if key not in self._keys.setdefault(name, []):
            self._keys[name].append(key)


# --- the result of training ------------------------------------------------------------------------------------


def write_together(
    path: Path, plans: Sequence[TensorPlan], read: Reader, *, is_collective: bool, is_leader: bool
) -> None:
    """Write one file of whole tensors on rank 0. Where reading brings parts together, all ranks read in its order.

    Raises OSError where the disk fails, and only after everything was read: the other ranks wait in each reading.
    """
    ordered = TensorFilePlan(plans).plans
    if not is_leader:
        for plan in ordered if is_collective else ():
            read(plan.name)
        return
    unread = {plan.name: None for plan in ordered}

    def take(name: str) -> torch.Tensor:
        del unread[name]
        return read(name)

    try:
        write_tensors(path, list(plans), take)
    except OSError:
        for name in unread if is_collective else ():
            read(name)
        raise
