"""Trained state as files: every rank reads the same things in the same order, also where the disk fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from finetune_trainer.engines.engine import Moments
from finetune_trainer.state_files import (
    OPTIMIZER_NAME,
    PARAMETERS_NAME,
    restore_moments,
    restore_parameters,
    save_state,
    write_together,
)
from finetune_trainer.tensor_files import TensorPlan
from tests.unit.trainer.small_trainer import FULL, LORA, SmallTrainer

# Larger than what a file collects before it writes.
ELEMENTS = 10_000


class Parts:
    """State of a run whose ranks hold parts; it notes what it was asked for."""

    def __init__(self, names: Sequence[str], *, is_collective: bool) -> None:
        self.names = tuple(names)
        self.is_collective = is_collective
        self.asked: list[str] = []
        self.restored: dict[str, torch.Tensor | Moments] = {}

    def shape(self, name: str) -> torch.Size:
        """All are alike."""
        return torch.Size([ELEMENTS])

    def parameter(self, name: str) -> torch.Tensor:
        """Its number, everywhere."""
        self.asked.append(name)
        return torch.full([ELEMENTS], float(self.names.index(name)))

    def moment_kinds(self, name: str) -> dict[str, tuple[torch.dtype, torch.Size]]:
        """As bitsandbytes has them: of several types."""
        return {
            "state1": (torch.uint8, torch.Size([ELEMENTS])),
            "absmax1": (torch.float32, torch.Size([3])),
            "step": (torch.int64, torch.Size([])),
        }

    def moment(self, name: str, key: str) -> torch.Tensor:
        """Its number, everywhere."""
        self.asked.append(f"{name}|{key}")
        dtype, shape = self.moment_kinds(name)[key]
        return torch.full(shape, self.names.index(name), dtype=dtype)

    def set_parameter(self, name: str, value: torch.Tensor) -> None:
        """Note it."""
        self.restored[name] = value

    def set_moments(self, values: Mapping[str, Moments]) -> None:
        """Note them."""
        self.restored.update(values)


NAMES = ("b.weight", "a.weight", "c|odd.weight")


def make_ranks(*, is_collective: bool) -> tuple[Parts, Parts]:
    leader, other = (Parts(NAMES, is_collective=is_collective) for _ in range(2))
    return leader, other


def test_all_ranks_bring_their_parts_together_in_the_same_order(tmp_path: Path) -> None:
    leader, other = make_ranks(is_collective=True)
    save_state(tmp_path, leader, is_leader=True)
    save_state(tmp_path / "nowhere", other, is_leader=False)
    assert leader.asked == other.asked
    assert len(leader.asked) == len(set(leader.asked)) == 3 + 3 * 3


def test_only_the_first_rank_reads_what_every_rank_has_whole(tmp_path: Path) -> None:
    leader, other = make_ranks(is_collective=False)
    save_state(tmp_path, leader, is_leader=True)
    save_state(tmp_path / "nowhere", other, is_leader=False)
    assert len(leader.asked) == 12
    assert other.asked == []
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/dev/full", id="a disk that is full"),
        pytest.param("/nowhere/parameters.safetensors", id="a folder that is gone"),
    ],
)
@pytest.mark.parametrize("is_collective", [True, False], ids=["parts", "whole"])
def test_a_disk_that_fails_is_told_after_everything_was_read(path: str, is_collective: bool) -> None:
    """The other ranks wait in each reading: who stopped in the midst would leave them there."""
    leader, other = make_ranks(is_collective=is_collective)
    plans = [TensorPlan(name, torch.float32, (ELEMENTS,)) for name in NAMES]
    with pytest.raises(OSError):
        write_together(Path(path), plans, leader.parameter, leader, is_leader=True)
    write_together(Path(path), plans, other.parameter, other, is_leader=False)
    if is_collective:
        assert leader.asked == other.asked == sorted(NAMES)
    assert len(leader.asked) == len(set(leader.asked))


def test_files_hold_everything_by_name(tmp_path: Path) -> None:
    leader, _ = make_ranks(is_collective=True)
    save_state(tmp_path, leader, is_leader=True)
    with safe_open(tmp_path / PARAMETERS_NAME, framework="pt") as saved:
        assert saved.metadata() == {"format": "pt"}
        assert sorted(saved.keys()) == sorted(NAMES)
    moments = load_file(tmp_path / OPTIMIZER_NAME)
    assert {key.rpartition("|")[2] for key in moments} == {"state1", "absmax1", "step"}
    restore_parameters(tmp_path, leader)
    assert {name: float(leader.restored[name][7]) for name in NAMES} == {  # type: ignore[index]
        name: float(number) for number, name in enumerate(NAMES)
    }
    restore_moments(tmp_path, leader)
    for number, name in enumerate(NAMES):
        found: Any = leader.restored[name]
        assert {key: (each.dtype, each.shape) for key, each in found.items()} == leader.moment_kinds(name)
        assert all((each == number).all() for each in found.values())


# --- real optimizers -----------------------------------------------------------------------------------------------


def moments_of(cell: SmallTrainer) -> dict[str, torch.Tensor]:
    state = cell.trainer.engine.state
    return {
        f"{name} {key}": state.moment(name, key) for name in state.names for key in state.moment_kinds(name)
    }


@pytest.mark.parametrize("optimizer", ["AdamW", "AdamW8bit"])
@pytest.mark.parametrize("method", [LORA, FULL], ids=["an adapter", "all weights"])
def test_moments_come_back_bit_for_bit_and_are_no_longer_the_files(
    optimizer: str, method: dict[str, Any], tmp_path: Path
) -> None:
    cell = SmallTrainer(tmp_path, method, steps=3, optimizer=optimizer)
    cell.train()
    folder = cell.save(tmp_path / "checkpoint")
    again = SmallTrainer(tmp_path, method, steps=3, optimizer=optimizer)
    again.prepare()
    restore_parameters(folder, again.trainer.engine.state)
    restore_moments(folder, again.trainer.engine.state)
    # The next checkpoint may be written to the same place.
    for name in (PARAMETERS_NAME, OPTIMIZER_NAME):
        with (folder / name).open("r+b") as file:
            file.write(b"\xff" * (folder / name).stat().st_size)

    wanted, found = moments_of(cell), moments_of(again)
    assert wanted.keys() == found.keys()
    for name, moment in wanted.items():
        assert found[name].dtype == moment.dtype, name
        assert torch.equal(found[name], moment), name
    assert all(torch.equal(each, cell.trained()[name]) for name, each in again.trained().items())
