"""Bar B-6: killed at a random step and resumed, a run gives the losses and the weights of the unbroken one, bit for bit."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from benchmarks.faults import count_bar, record
from devcluster import S3Server
from finetune_api.names import Stage
from tests.builders.deadlines import wait_until
from tests.builders.forked_pods import ForkedPods
from tests.builders.training_runs import SETTINGS, TrainingRun
from tests.integration.trainer.runs import Ending, ending_of

STEPS = 20
LONG_SEEDS = 100
# So long is a step that the uploader gets somewhere between two.
STEP_SECONDS = 0.03


@dataclass(frozen=True)
class Cell:
    """What is trained and by how many processes; `last_step` is where it ends, `bounds` how its log says so."""

    name: str
    method: Mapping[str, Any]
    world_size: int = 1
    strategy: str = "DDP"
    last_step: int = STEPS
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def changes(self) -> dict[str, Any]:
        """Of the job's spec."""
        base = {name: value for name, value in SETTINGS.items() if not name.startswith("method")}
        return {
            **base,
            "training__maxSteps": STEPS,
            "method": dict(self.method),
            "parallelism__gpusPerNode": self.world_size if self.world_size > 1 else 0,
            "parallelism__strategy": self.strategy,
            **self.more,
        }


LORA = {"type": "LoRA", "lora": {"rank": 4, "dropout": 0.1}}
QLORA = {"type": "QLoRA", "lora": {"rank": 4, "dropout": 0.1}}
ADALORA = {
    "type": "AdaLoRA",
    "adaLora": {"initialRank": 4, "targetRank": 2, "intervalSteps": 1, "dropout": 0.1},
}
FULL = {"type": "Full"}
# The second evaluation is no such improvement, nor is the third.
ENDS_EARLY = {
    "dataset__validation": {"fraction": 0.1},
    "training__evaluationSteps": 5,
    "training__earlyStopping": {"patience": 2, "minDelta": 100},
}
EARLY = 15
CELLS = {
    cell.name: cell
    for cell in (
        Cell("LoRA with dropout", LORA),
        Cell("LoRA with dropout, two processes", LORA, 2),
        Cell("LoRA with dropout, three processes and ZeRO-2", LORA, 3, "ZeRO2"),
        Cell("QLoRA", QLORA),
        Cell("QLoRA, two processes and ZeRO-2", QLORA, 2, "ZeRO2"),
        Cell("QLoRA, three processes", QLORA, 3),
        Cell("AdaLoRA that ends early", ADALORA, last_step=EARLY, more=ENDS_EARLY),
        Cell("AdaLoRA that ends early, two processes", ADALORA, 2, last_step=EARLY, more=ENDS_EARLY),
        Cell("AdaLoRA that ends early, three processes", ADALORA, 3, last_step=EARLY, more=ENDS_EARLY),
        Cell("all weights", FULL),
        Cell("all weights, two processes", FULL, 2),
        Cell("all weights, two processes and ZeRO-2", FULL, 2, "ZeRO2"),
        Cell("all weights, three processes and ZeRO-2", FULL, 3, "ZeRO2"),
    )
}
# Each method, each number of processes, and both ways of sharing the work.
EVERYDAY = (
    ("LoRA with dropout", 4),
    ("AdaLoRA that ends early, two processes", 2),
    ("QLoRA, two processes and ZeRO-2", 2),
    ("all weights, three processes and ZeRO-2", 2),
)


class Unbroken:
    """Runs that nothing interrupted, one a cell, made when they are asked for."""

    def __init__(self, server: S3Server, folder: Path) -> None:
        self._server = server
        self._folder = folder
        self._endings: dict[str, tuple[TrainingRun, Ending]] = {}

    def of(self, cell: Cell) -> tuple[TrainingRun, Ending]:
        """A run of the cell to take up anew, and how it ends."""
        if cell.name not in self._endings:
            number = list(CELLS).index(cell.name)
            run = TrainingRun(
                self._server, self._folder / f"cell-{number}", f"b6b6b6{number:02d}-0000", cell.changes
            )
            run.run(Stage.PREPARE)
            run.pods = ForkedPods()
            run.run(Stage.TRAIN)
            ending = ending_of(run)
            assert [line["step"] for line in ending.figures] == list(range(1, cell.last_step + 1))
            self._endings[cell.name] = run, ending
        return self._endings[cell.name]


@pytest.fixture(scope="module")
def unbroken(server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Unbroken:
    """The reference of every cell."""
    return Unbroken(server, tmp_path_factory.mktemp("seeds"))


@pytest.mark.parametrize(
    ("cell", "seed"),
    [
        pytest.param(CELLS[name], seed, id=f"{name}, seed {seed}")
        for name, seeds in EVERYDAY
        for seed in range(seeds)
    ],
)
def test_a_killed_run_ends_bit_for_bit_as_the_unbroken_one(cell: Cell, seed: int, unbroken: Unbroken) -> None:
    assert_ends_as_unbroken(cell, seed, unbroken)


@pytest.mark.long_fault
@pytest.mark.timeout(7200)
def test_a_hundred_killed_runs_end_bit_for_bit_as_the_unbroken_ones(unbroken: Unbroken) -> None:
    cells, different = list(CELLS.values()), []
    for seed in range(1000, 1000 + LONG_SEEDS):
        cell = cells[seed % len(cells)]
        try:
            assert_ends_as_unbroken(cell, seed, unbroken)
        except AssertionError as error:
            different.append(f"{cell.name}, seed {seed}: {error}")
    equal = LONG_SEEDS - len(different)
    title = "killed at a random step and resumed = unbroken, bit for bit"
    record(count_bar("B-6", title, good=equal, of=LONG_SEEDS, unit="resumes", problems=different))
    assert different == []


def assert_ends_as_unbroken(cell: Cell, seed: int, unbroken: Unbroken) -> None:
    """Kill the run once or twice, let it end, compare."""
    run, ending = unbroken.of(cell)
    dice = random.Random(f"{cell.name} {seed}")
    run.start_over()
    for attempt in range(dice.choice((1, 1, 2))):
        death = Death(
            share=dice.random(),
            delay_seconds=2 * STEP_SECONDS * dice.random(),
            last_step=cell.last_step - 2,
            after_commit=attempt == 0,
        )
        run.pods = ForkedPods(partial(die_in_rank_0, death))
        killed = run.start(Stage.TRAIN)
        assert killed.wait() == -signal.SIGKILL, f"seed {seed}: it was not killed\n{killed.log}"
    run.pods = ForkedPods()
    last = run.run(Stage.TRAIN)
    assert last.resumed_step() > 0
    again = ending_of(run)
    assert again.figures == ending.figures, f"seed {seed}, resumed from step {last.resumed_step()}"
    assert again.digests == ending.digests, f"seed {seed}, resumed from step {last.resumed_step()}"


# --- in the first rank -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Death:
    """When all processes of the pod are killed: at a share of what is left of the run, and a little later."""

    share: float
    delay_seconds: float
    # The last step that it may be chosen for.
    last_step: int
    # What is left is counted from this attempt's first commit on, not from its first step on.
    after_commit: bool


def die_in_rank_0(death: Death) -> None:
    """Have the first rank kill the pod's process group, whatever its processes are doing then."""
    from finetune_trainer.training import FineTuneTrainer
    from finetune_trainer.work_directory import WorkDirectory

    if os.environ.get("RANK", "0") != "0":
        return
    training_step, spool = FineTuneTrainer.training_step, WorkDirectory.from_environment().spool
    chosen: list[int] = []

    def step_and_die(self: FineTuneTrainer, *arguments: Any) -> Any:
        time.sleep(STEP_SECONDS)
        step = int(self.state.global_step)
        if not chosen and death.after_commit and step >= death.last_step:
            # A busy machine's uploads may take longer than the whole run.
            wait_until(lambda: spool.report().committed is not None, "a checkpoint is committed")
        if not chosen and (not death.after_commit or spool.report().committed is not None):
            chosen.append(step + int(death.share * max(0, death.last_step - step)))
        if chosen and step >= chosen[0]:
            # Whatever is being done by then: the step, a copy, an upload, a commit.
            threading.Timer(death.delay_seconds, os.killpg, (0, signal.SIGKILL)).start()
        return training_step(self, *arguments)

    patch.object(FineTuneTrainer, "training_step", step_and_die).start()
