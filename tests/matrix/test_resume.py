"""A run that goes on from a checkpoint ends as one that was never interrupted, bit for bit, whatever shares the work."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from finetune_api.spec import Strategy
from finetune_trainer.run_file import MethodFacts
from tests.builders.rows import write_prepared_rows
from tests.builders.tiny_models import write_model
from tests.matrix.runner import Cell, make_spec, run_cell

LENGTHS = [5, 17, 3, 9, 33, 2, 20, 7, 11, 50, 6, 13]
TARGETS = ("q_proj", "v_proj", "down_proj")
STEPS, SAVED = 10, 4
LORA = {"type": "LoRA", "lora": {"rank": 4, "dropout": 0.1}}
ADALORA = {
    "type": "AdaLoRA",
    "adaLora": {"initialRank": 4, "targetRank": 2, "intervalSteps": 1, "dropout": 0.1},
}
ON_TARGETS = MethodFacts(target_modules=TARGETS)
MIXED = {"type": "LoRA", "lora": {"rank": 4, "targetModules": ["q_proj"], "fullyTrainedModules": ["mlp"]}}


@dataclass(frozen=True)
class Case:
    """What is trained, and by how many."""

    name: str
    method: Mapping[str, Any]
    strategy: str = "DDP"
    precision: str = "FP32"
    world_size: int = 1
    facts: MethodFacts = ON_TARGETS
    more: Mapping[str, Any] = field(default_factory=dict)


CASES = (
    Case("one process with dropout", LORA),
    Case("three processes", LORA, world_size=3),
    Case("ZeRO-1", LORA, "ZeRO1", "BF16", 2),
    Case("ZeRO-2", LORA, "ZeRO2", "FP32", 2),
    # Two groups of parameters, with and without weight decay, and so two flat partitions.
    Case("ZeRO-2, all trained", {"type": "Full"}, "ZeRO2", "FP32", 2, MethodFacts()),
    Case("ZeRO-3 in 16 bits, all trained", {"type": "Full"}, "ZeRO3", "BF16", 2, MethodFacts()),
    Case(
        "ZeRO-3 offloaded, alone",
        LORA,
        "ZeRO3",
        more={"parallelism__offload": "OptimizerAndParameters"},
    ),
    Case("FSDP in 16 bits", LORA, "FSDP", "BF16", 2),
    Case("all trained, autocast", {"type": "Full"}, "DDP", "BF16", 2, MethodFacts()),
    Case(
        "AdaLoRA",
        ADALORA,
        "DDP",
        "FP32",
        2,
        MethodFacts(target_modules=TARGETS, initial_steps=2, final_steps=3),
    ),
    Case("PiSSA", {"type": "LoRA", "lora": {"rank": 4, "variant": "PiSSA"}}, precision="BF16"),
    Case("QLoRA with ZeRO-2", {"type": "QLoRA", "lora": {"rank": 4}}, "ZeRO2", "BF16", 2),
    Case("8-bit moments", {"type": "Full"}, facts=MethodFacts(), more={"training__optimizer": "AdamW8bit"}),
    Case("loss scaling", LORA, precision="FP16"),
    Case("virtual tokens", {"type": "PrefixTuning"}, "DDP", "FP32", 2, MethodFacts()),
    Case(
        "LoRA and whole modules",
        MIXED,
        "ZeRO2",
        "BF16",
        2,
        MethodFacts(target_modules=("q_proj",), fully_trained_modules=("mlp",)),
    ),
)


BY_SHARES = ("ZeRO-1", "ZeRO-2", "ZeRO-3 in 16 bits, all trained", "FSDP in 16 bits")
WHOLE_PARAMETERS = (Strategy.ZERO1, Strategy.ZERO2)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model and rows."""
    folder = tmp_path_factory.mktemp("inputs")
    write_prepared_rows(folder / "rows.arrow", LENGTHS)
    return write_model(folder / "model", "qwen3"), folder / "rows.arrow"


def make_cell(case: Case, inputs: tuple[Path, Path], folder: Path) -> Cell:
    model, rows = inputs
    folder.mkdir()
    spec = make_spec(
        method=dict(case.method),
        parallelism__strategy=case.strategy,
        training__precision=case.precision,
        training__learningRate=5e-3,
        training__globalBatchSize=6,
        training__weightDecay=0.01,
        **case.more,
    )
    return Cell(
        spec=spec,
        model=model,
        rows=rows,
        facts=case.facts,
        folder=folder,
        world_size=case.world_size,
        steps=STEPS,
        warmup_steps=2,
    )


def digests(folder: Path) -> dict[str, str]:
    files = sorted((folder / "trained").iterdir())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_resumed_run_is_the_unbroken_one(case: Case, inputs: tuple[Path, Path], tmp_path: Path) -> None:
    whole = replace(make_cell(case, inputs, tmp_path / "whole"), save_after=SAVED)
    unbroken = run_cell(whole)
    rest = replace(make_cell(case, inputs, tmp_path / "rest"), checkpoint=whole.folder / "checkpoint")
    resumed = run_cell(rest)
    assert resumed.losses == unbroken.losses[SAVED:]
    assert resumed.norms == unbroken.norms[SAVED:]
    assert resumed.rates == unbroken.rates[SAVED:]
    assert digests(rest.folder) == digests(whole.folder)
    if case.name in BY_SHARES:
        assert_pods_need_their_own_shares(rest, unbroken.losses[SAVED:], tmp_path / "shares")


def assert_pods_need_their_own_shares(rest: Cell, losses: list[float], folder: Path) -> None:
    """Of pods with a rank each: it takes its own part of what is split up, and no more."""
    folder.mkdir()
    assert run_cell(replace(rest, folder=folder, fetches_shares=True)).losses == losses
    fetched = {path.name for path in (folder / "share-1").iterdir()}
    assert "optimizer-00001.safetensors" in fetched and "optimizer-00000.safetensors" not in fetched
    assert ("parameters-00000.safetensors" in fetched) is (rest.spec.parallelism.strategy in WHOLE_PARAMETERS)


@pytest.mark.parametrize(
    ("before", "after"),
    [(("ZeRO2", 2), ("DDP", 1)), (("DDP", 1), ("ZeRO3", 3)), (("FSDP", 2), ("DDP", 3))],
    ids=["fewer", "more, split up", "another strategy"],
)
def test_a_checkpoint_is_gone_on_from_by_others(
    before: tuple[str, int], after: tuple[str, int], inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    """Without dropout, whose random numbers belong to ranks: the same rows, the same state, sums in another order."""
    still = {"type": "LoRA", "lora": {"rank": 4}}
    first, second = (Case("", still, strategy, world_size=size) for strategy, size in (before, after))
    whole = replace(make_cell(first, inputs, tmp_path / "whole"), save_after=SAVED)
    unbroken = run_cell(whole)
    rest = replace(make_cell(second, inputs, tmp_path / "rest"), checkpoint=whole.folder / "checkpoint")
    assert run_cell(rest).losses == pytest.approx(unbroken.losses[SAVED:], rel=1e-5)
