"""Trains one cell for real: the trainer's own pieces in one process or several, forked from one that imported them.

What a pod does beside (store, launcher, progress) is tested elsewhere; here it is the mathematics.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.placement import free_port
from tests.builders.fork_server import fork_server
from tests.builders.job_files import make_job_file

if TYPE_CHECKING:
    from finetune_trainer.run_file import MethodFacts

DEADLINE_SECONDS = 240.0
_LEAVING_SECONDS = 5.0


@dataclass(frozen=True)
class Cell:
    """What one run is made of. `rows` is a file of prepared rows, `spec` the job's."""

    spec: FineTuneJobSpec
    model: Path
    rows: Path
    facts: MethodFacts
    folder: Path
    world_size: int = 1
    steps: int = 8
    micro_batch_tokens: int = 64
    warmup_steps: int = 0
    decay_steps: int = 0
    chunk_positions: int | None = None
    evaluation_rows: Path | None = None
    evaluation_steps: int | None = None
    # Saves after that step into folder/checkpoint.
    save_after: int | None = None
    # Goes on from that folder; each rank as a pod of its own, which fetches what it needs.
    checkpoint: Path | None = None
    fetches_shares: bool = False
    earlier_adapter: Path | None = None


@dataclass
class Outcome:
    """What a run left behind: figures of every step, and folder/trained."""

    losses: list[float]
    norms: list[float]
    rates: list[float]
    evaluations: list[dict[str, float]] = field(default_factory=list)
    loss_by_source: list[Mapping[str, float]] = field(default_factory=list)
    adapter: Path | None = None


def run_cell(cell: Cell) -> Outcome:
    """Train the cell; the first rank's figures. Raises AssertionError with a rank's stack where one failed."""
    context, port = fork_server(), free_port()
    ranks: dict[Connection, ForkServerProcess] = {}
    for rank in range(cell.world_size):
        receiver, sender = context.Pipe(duplex=False)
        ranks[receiver] = context.Process(target=_enter, args=(cell, rank, port, sender), daemon=True)
        ranks[receiver].start()
        # The rank alone holds this end now: when it is gone, so is the connection.
        sender.close()
    try:
        return _first_outcome(list(ranks))
    finally:
        for receiver, process in ranks.items():
            receiver.close()
            process.join(_LEAVING_SECONDS)
            process.kill()
            process.join()
            process.close()


def _first_outcome(receivers: list[Connection]) -> Outcome:
    outcomes: dict[int, Outcome] = {}
    while len(outcomes) < len(receivers):
        waiting = [each for rank, each in enumerate(receivers) if rank not in outcomes]
        ready = wait(waiting, timeout=DEADLINE_SECONDS)
        assert ready, f"no end in {DEADLINE_SECONDS:.0f} s; ended: {sorted(outcomes)}"
        for receiver in ready:
            assert isinstance(receiver, Connection)
            rank = receivers.index(receiver)
            outcomes[rank] = _receive(receiver, rank)
    return outcomes[0]


def _receive(receiver: Connection, rank: int) -> Outcome:
    try:
        outcome: Outcome | str = receiver.recv()
    except EOFError:
        raise AssertionError(f"rank {rank} died without a word") from None
    assert isinstance(outcome, Outcome), f"rank {rank}: {outcome}"
    return outcome


def _enter(cell: Cell, rank: int, port: int, sender: Connection) -> None:
    from tests.matrix.rank import train_rank

    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(cell.world_size),
        "LOCAL_WORLD_SIZE": str(cell.world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    try:
        sender.send(train_rank(cell, rank))
    except BaseException:
        sender.send(traceback.format_exc())
    sender.close()


def make_spec(**changes: Any) -> FineTuneJobSpec:
    """A job's spec on CPUs; `changes` as in make_manifest."""
    return make_job_file(**{"parallelism__gpusPerNode": 0, **changes}).spec


def after(cell: Cell, **changes: Any) -> Cell:
    """The same cell with changes."""
    return replace(cell, **changes)
