"""The ranks of one run: how they meet, add up figures, and come to one decision about an error.

Sums travel by collectives, as part of every step. Whatever may take long or fail on one rank alone (files, the
store) is settled through the key-value store instead, whose waits have a limit of their own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from finetune_trainer import errors
from finetune_trainer.errors import StageError

# A rank that computes is never this late; a rank that is gone closes its connection and is noticed at once.
COLLECTIVE_TIMEOUT = timedelta(minutes=30)
# Rank 0 may upload for long while the others wait.
AGREEMENT_TIMEOUT = timedelta(hours=2)


@dataclass(frozen=True)
class Gang:
    """One rank's view of all ranks."""

    rank: int
    local_rank: int
    world_size: int
    device: torch.device
    store: Store | None

    @property
    def is_leader(self) -> bool:
        """Whether this rank speaks for all: it writes to the store and reports."""
        return self.rank == 0

    def total(self, *values: float) -> tuple[float, ...]:
        """Add up figures over all ranks; every rank gets the same sums."""
        if self.world_size == 1:
            return values
        figures = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(figures)
        return tuple(figures.tolist())

    def agree(self, topic: str, failure: StageError | None) -> None:
        """Raise on every rank what any rank reports, the lowest rank's error first. `topic` is used once."""
        if self.store is None:
            _raise_if(failure)
            return
        self.store.set(f"{topic}/{self.rank}", _encode(failure))
        for rank in range(self.world_size):
            _raise_if(_decode(self.store.get(f"{topic}/{rank}")))

    def do_together(self, topic: str, action: Callable[[], None]) -> None:
        """Run an action on every rank; an error of one becomes the error of all."""
        self.agree(topic, _failure_of(action))

    def let_leader(self, topic: str, action: Callable[[], None]) -> None:
        """Run an action on rank 0 while the others wait; its error becomes the error of all."""
        self.agree(topic, _failure_of(action) if self.is_leader else None)


def join_gang() -> Gang:
    """Meet the other ranks as the environment says (RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT)."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    rank, local_rank = int(os.environ.get("RANK", "0")), int(os.environ.get("LOCAL_RANK", "0"))
    device = _device(local_rank)
    if world_size == 1:
        return Gang(rank, local_rank, world_size, device, store=None)
    store = TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        world_size,
        is_master=rank == 0,
        timeout=AGREEMENT_TIMEOUT,
    )
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(
        backend,
        store=PrefixStore("collectives", store),
        rank=rank,
        world_size=world_size,
        timeout=COLLECTIVE_TIMEOUT,
    )
    return Gang(rank, local_rank, world_size, device, PrefixStore("agreements", store))


def leave_gang(gang: Gang) -> None:
    """Close the connections after a run that went well."""
    if gang.world_size > 1:
        dist.destroy_process_group()


def _device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def _failure_of(action: Callable[[], None]) -> StageError | None:
    try:
        action()
    except StageError as error:
        return error
    return None


def _raise_if(failure: StageError | None) -> None:
    if failure is not None:
        raise failure


def _encode(failure: StageError | None) -> str:
    return json.dumps(None if failure is None else [type(failure).__name__, failure.message, failure.step])


def _decode(text: bytes) -> StageError | None:
    content = json.loads(text)
    if content is None:
        return None
    name, message, step = content
    kind = getattr(errors, name, errors.StorageUnavailable)
    error: StageError = kind(message, step=step)
    return error
