"""Trained state as files: each rank's share by name, read back whole or in part, by whoever goes on."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from finetune_trainer.checkpoint_files import OPTIMIZER, PARAMETERS, rank_file_name
from finetune_trainer.engines.replicated import split_evenly
from finetune_trainer.snapshot_buffer import SnapshotBuffer
from finetune_trainer.state_files import Fragment, SavedState, is_of_kind, save_state, write_together
from finetune_trainer.tensor_files import TensorPlan
from tests.unit.trainer.small_trainer import FULL, LORA, SmallTrainer

# Larger than what a file collects before it writes.
ELEMENTS = 10_000
NAMES = ("b.weight", "a.weight", "c|odd.weight")


# --- shares ----------------------------------------------------------------------------------------------------


def whole_weight(rows: int = 6, columns: int = 5) -> torch.Tensor:
    return torch.arange(rows * columns, dtype=torch.float32).reshape(rows, columns)


def save_parts(folder: Path, cuts: Sequence[int]) -> torch.Tensor:
    """A parameter and its moments, cut at these elements, a range a rank."""
    weight = whole_weight()
    flat, edges = weight.flatten(), [0, *cuts, weight.numel()]
    for rank, (begin, end) in enumerate(itertools.pairwise(edges)):
        share = [
            Fragment("w", flat[begin:end], begin=begin),
            Fragment("w", 10 * flat[begin:end], "exp_avg", begin),
        ]
        save_state(folder, share + ([Fragment("w", torch.tensor(7.0), "step")] if rank == 0 else []), rank)
    return weight


@pytest.mark.parametrize(
    "cuts",
    [
        pytest.param([], id="one range"),
        pytest.param([15], id="two, in the midst of a row"),
        pytest.param([1, 2, 29], id="four of quite different lengths"),
    ],
)
def test_ranges_are_put_together_whole_and_in_any_part(cuts: list[int], tmp_path: Path) -> None:
    weight = save_parts(tmp_path, cuts)
    with SavedState(tmp_path) as saved:
        assert saved.names == ("w",)
        assert sorted(saved.keys("w")) == ["exp_avg", "step"]
        assert torch.equal(saved.whole("w", weight.shape), weight)
        assert torch.equal(saved.whole("w", weight.shape, "exp_avg"), 10 * weight)
        assert saved.whole("w", weight.shape, "step") == 7
        for begin in range(weight.numel()):
            for length in range(1, weight.numel() - begin + 1):
                expected = weight.flatten()[begin : begin + length]
                assert torch.equal(saved.part("w", begin, length), expected)


def test_a_whole_tensor_is_read_in_parts_too(tmp_path: Path) -> None:
    weight = whole_weight()
    save_state(tmp_path, [Fragment("w", weight), Fragment("w", -weight, "exp_avg")], 0)
    with SavedState(tmp_path) as saved:
        assert torch.equal(saved.part("w", 7, 9), weight.flatten()[7:16])
        assert torch.equal(saved.part("w", 0, 30, "exp_avg"), -weight.flatten())


def test_a_share_that_is_missing_is_noticed(tmp_path: Path) -> None:
    weight = save_parts(tmp_path, [10, 20])
    (tmp_path / rank_file_name(PARAMETERS, 1)).unlink()
    with SavedState(tmp_path) as saved, pytest.raises(AssertionError, match="20 of 30 elements"):
        saved.whole("w", weight.shape)


def test_types_and_shapes_stay_as_optimizers_have_them(tmp_path: Path) -> None:
    """As bitsandbytes has them: codes, scales for blocks, a table, a count in Python."""
    kept = {
        "": torch.ones(4, 3),
        "state1": torch.full((4, 3), 200, dtype=torch.uint8),
        "absmax1": torch.ones(2),
        "qmap1": torch.linspace(-1, 1, 256),
        "step": torch.tensor(12, dtype=torch.int64),
    }
    fragments = [Fragment(name, tensor, key) for name in NAMES for key, tensor in kept.items()]
    save_state(tmp_path, fragments, 3)
    with SavedState(tmp_path) as saved:
        assert set(saved.names) == set(NAMES)
        for fragment in fragments:
            found = saved.whole(fragment.name, (4, 3), fragment.key)
            assert (found.dtype, found.shape) == (fragment.tensor.dtype, fragment.tensor.shape)
            assert torch.equal(found, fragment.tensor)
    with safe_open(tmp_path / rank_file_name(PARAMETERS, 3), framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert sorted(file.keys()) == sorted(NAMES)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_names_are_dealt_out_once_and_evenly(count: int) -> None:
    sizes = {f"layer.{number}": 1 + number % 5 for number in range(40)}
    shares = split_evenly(sizes, count)
    assert sorted(name for share in shares for name in share) == sorted(sizes)
    sums = [sum(sizes[name] for name in share) for share in shares]
    assert max(sums) - min(sums) <= max(sizes.values())


# --- snapshots -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [PARAMETERS, OPTIMIZER])
def test_a_buffer_holds_the_very_file_and_is_filled_again_and_again(kind: str, tmp_path: Path) -> None:
    cell = SmallTrainer(tmp_path, steps=2)
    cell.train()
    buffer = SnapshotBuffer(tmp_path / "buffer")
    for _ in range(2):
        fragments = [each for each in cell.trainer.engine.state.fragments() if is_of_kind(each, kind)]
        save_state(tmp_path, cell.trainer.engine.state.fragments(), 0)
        size_bytes = buffer.fill(fragments)
        assert (tmp_path / "buffer").read_bytes() == (tmp_path / rank_file_name(kind, 0)).read_bytes()
        assert size_bytes == (tmp_path / "buffer").stat().st_size
        with torch.no_grad():
            for each in fragments:
                each.tensor.add_(1)


def test_a_buffer_that_has_no_room_on_the_disk_says_so(tmp_path: Path) -> None:
    buffer = SnapshotBuffer(Path("/dev/full"))
    with pytest.raises(OSError):
        buffer.fill([Fragment("w", whole_weight())])


# --- real optimizers -----------------------------------------------------------------------------------------------


def state_of(cell: SmallTrainer) -> dict[str, torch.Tensor]:
    return {each.full_name: each.tensor for each in cell.trainer.engine.state.fragments()}


@pytest.mark.parametrize("optimizer", ["AdamW", "AdamW8bit"])
@pytest.mark.parametrize("method", [LORA, FULL], ids=["an adapter", "all weights"])
def test_state_comes_back_bit_for_bit_and_is_no_longer_the_files(
    optimizer: str, method: dict[str, Any], tmp_path: Path
) -> None:
    cell = SmallTrainer(tmp_path, method, steps=3, optimizer=optimizer)
    cell.train()
    folder = cell.save(tmp_path / "checkpoint")
    again = SmallTrainer(tmp_path, method, steps=3, optimizer=optimizer)
    again.prepare()
    with SavedState(folder) as saved:
        again.trainer.engine.state.load(saved)
    # The next checkpoint may be written to the same place.
    for path in folder.glob("*-00000.safetensors"):
        with path.open("r+b") as file:
            file.write(b"\xff" * path.stat().st_size)

    wanted, found = state_of(cell), state_of(again)
    assert wanted.keys() == found.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


# --- the result, brought together --------------------------------------------------------------------------------


class Reading:
    """A rank that notes what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def read(self, name: str) -> torch.Tensor:
        """Its number, everywhere."""
        self.asked.append(name)
        return torch.full([ELEMENTS], float(NAMES.index(name)))


PLANS = [TensorPlan(name, torch.float32, (ELEMENTS,)) for name in NAMES]


@pytest.mark.parametrize("is_collective", [True, False], ids=["parts", "whole"])
def test_all_ranks_bring_their_parts_together_in_the_same_order(is_collective: bool, tmp_path: Path) -> None:
    leader, other = Reading(), Reading()
    path, nowhere = tmp_path / "model.safetensors", tmp_path / "nowhere"
    write_together(path, PLANS, leader.read, is_collective=is_collective, is_leader=True)
    write_together(nowhere, PLANS, other.read, is_collective=is_collective, is_leader=False)
    assert leader.asked == sorted(NAMES)
    assert other.asked == (sorted(NAMES) if is_collective else [])
    assert not nowhere.exists()


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
    leader, other = Reading(), Reading()
    with pytest.raises(OSError):
        write_together(Path(path), PLANS, leader.read, is_collective=is_collective, is_leader=True)
    write_together(Path(path), PLANS, other.read, is_collective=is_collective, is_leader=False)
    if is_collective:
        assert leader.asked == other.asked == sorted(NAMES)
    assert len(leader.asked) == len(set(leader.asked))
