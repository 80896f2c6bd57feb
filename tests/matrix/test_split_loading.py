"""A model that is split up over processes is read from its mapped files, a part at a time, and loses nothing by it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from finetune_trainer.run_file import MethodFacts
from tests.builders.rows import write_prepared_rows
from tests.builders.tiny_models import write_model
from tests.matrix.loading_probes import in_a_process, load_model, split_by_zero
from tests.matrix.runner import Cell, make_spec, run_cell
from tests.matrix.test_resume import digests

LENGTHS = [5, 17, 3, 9, 33, 2, 20, 7, 11, 50, 6, 13]
STEPS, SAVED = 8, 3
# Sums in another order: fp32's own error, carried on from step to step.
TOLERANCE = 1e-5
SPLIT = ("ZeRO3", "FSDP")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model whose files have 16 bits, and rows."""
    folder = tmp_path_factory.mktemp("inputs")
    write_prepared_rows(folder / "rows.arrow", LENGTHS)
    return write_model(folder / "model", dtype=torch.bfloat16), folder / "rows.arrow"


def make_cell(
    inputs: tuple[Path, Path], folder: Path, strategy: str, world_size: int, precision: str
) -> Cell:
    folder.mkdir()
    spec = make_spec(
        method={"type": "Full"},
        parallelism__strategy=strategy,
        training__precision=precision,
        training__learningRate=1e-3,
        training__globalBatchSize=6,
    )
    return Cell(spec, *inputs, MethodFacts(), folder, world_size, STEPS)


@pytest.mark.parametrize("strategy", SPLIT)
def test_weights_of_16_bits_are_trained_in_32(
    strategy: str, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    alone = run_cell(make_cell(inputs, tmp_path / "alone", "DDP", 1, "FP32"))
    shared = run_cell(make_cell(inputs, tmp_path / "shared", strategy, 2, "FP32"))
    assert shared.losses == pytest.approx(alone.losses, rel=TOLERANCE)


@pytest.mark.parametrize(("strategy", "precision"), [("ZeRO3", "FP32"), ("ZeRO3", "BF16"), ("FSDP", "BF16")])
def test_a_resumed_run_is_the_unbroken_one(
    strategy: str, precision: str, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    """The checkpoint's 32 bits are not rounded to the 16 of the base model's files."""
    whole = replace(make_cell(inputs, tmp_path / "whole", strategy, 2, precision), save_after=SAVED)
    unbroken = run_cell(whole)
    rest = replace(
        make_cell(inputs, tmp_path / "rest", strategy, 2, precision), checkpoint=whole.folder / "checkpoint"
    )
    assert run_cell(rest).losses == unbroken.losses[SAVED:]
    assert digests(rest.folder) == digests(whole.folder)


def test_a_model_that_is_split_up_is_mapped_and_not_copied(tmp_path: Path) -> None:
    base = write_model(tmp_path / "large", dtype=torch.bfloat16, vocab_size=400_000)
    size = (base / "model.safetensors").stat().st_size
    for strategy in SPLIT:
        taken, dtypes = in_a_process(load_model, base, strategy)
        assert taken < 0.25 * size, f"{strategy}: {taken / 2**20:.0f} of {size / 2**20:.0f} MiB"
        assert dtypes == {torch.bfloat16}
    taken, dtypes = in_a_process(load_model, base, "DDP")
    assert taken > 1.5 * size, "each process has its own copy, of 32 bits"
    assert dtypes == {torch.float32}


def test_rotary_frequencies_are_not_rounded(inputs: tuple[Path, Path]) -> None:
    """An angle is a frequency times a position: what 16 bits leave out grows along the row."""
    parameters, buffers = in_a_process(split_by_zero, inputs[0])
    assert parameters == {torch.bfloat16}
    assert buffers == {torch.float32}
