"""The ranks of one run: how they meet, add up figures, and come to one decision about an error.

Sums travel by collectives, as part of every step. Whatever may take long or fail on one rank alone (files, the
store) is settled through the key-value store instead. What they wait for there is a barrier of gloo's with a limit of
its own, on GPUs too: unlike a wait for a key, it ends at once when another rank is gone.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, PrefixStore, Store, TCPStore

from finetune_trainer import errors
from finetune_trainer.errors import StageError

logger = logging.getLogger(__name__)

# A rank that computes is never this late; a rank that is gone closes its connection and is noticed at once.
COLLECTIVE_TIMEOUT = timedelta(minutes=30)
# Rank 0 may upload for long while the others wait.
AGREEMENT_TIMEOUT = timedelta(hours=2)
_RESOLVE_INTERVAL_SECONDS = 0.5


@dataclass(frozen=True)
class Gang:
    """One rank's view of all ranks. A single one has neither store nor group."""

    rank: int
    local_rank: int
    world_size: int
    device: torch.device
    store: Store | None = None
    agreements: dist.ProcessGroup | None = None

    @property
    def is_leader(self) -> bool:
        """Whether this rank speaks for all: it writes to the store and reports."""
        return self.rank == 0

    @property
    def ranks_of_pod(self) -> range:
        """The ranks that run in this one's pod."""
        first, count = self.rank - self.local_rank, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        return range(first, first + count)

    def total(self, *values: float) -> tuple[float, ...]:
        """Add up figures over all ranks; every rank gets the same sums."""
        if self.world_size == 1:
            return values
        figures = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(figures)
        return tuple(figures.tolist())

    def least(self, value: int) -> int:
        """The smallest of all ranks' values."""
        if self.world_size == 1:
            return value
        smallest = torch.tensor(value, dtype=torch.int64, device=self.device)
        dist.all_reduce(smallest, dist.ReduceOp.MIN)
        return int(smallest)

    def agree(self, topic: str, failure: StageError | None) -> None:
        """Raise on every rank what any rank reports, the lowest rank's error first. `topic` is used once."""
        if self.store is None:
            _raise_if(failure)
            return
        self.store.set(f"{topic}/{self.rank}", _encode(failure))
        answers = self._once_all_have_written([f"{topic}/{rank}" for rank in range(self.world_size)])
        for rank, answer in enumerate(answers):
            _raise_if(_decode(answer, rank))

    def meet(self, limit: timedelta) -> None:
        """Wait until all ranks are here. Raises TimeoutError where one is not within the limit."""
        if self.store is None:
            return
        try:
            dist.monitored_barrier(group=self.agreements, timeout=limit)
        except RuntimeError as error:
            raise TimeoutError(
                f"not all ranks came together within {limit.total_seconds():.0f} s ({str(error).splitlines()[0]})"
            ) from error

    def do_together(self, topic: str, action: Callable[[], None]) -> None:
        """Run an action on every rank; an error of one becomes the error of all."""
        self.agree(topic, _failure_of(action))

    def let_leader(self, topic: str, action: Callable[[], None]) -> None:
        """Run an action on rank 0 while the others wait; its error becomes the error of all."""
        self.agree(topic, _failure_of(action) if self.is_leader else None)

    def hear_leader(self, topic: str, text: str | None) -> str:
        """Give every rank the text that rank 0 passes in; what the others pass is not looked at."""
        assert text is not None or not self.is_leader, "the leader knows"
        if self.store is None:
            return text or ""
        if self.is_leader:
            self.store.set(topic, text or "")
        (heard,) = self._once_all_have_written([topic])
        return heard.decode()

    def collect(self, topic: str, data: bytes) -> list[bytes]:
        """Bring every rank's bytes to rank 0, in the order of ranks; the other ranks get an empty list."""
        if self.store is None:
            return [data]
        key = f"{topic}/{self.rank}"
        self.store.set(key, data)  # type: ignore[arg-type] # bytes are taken as they are
        keys = [f"{topic}/{rank}" for rank in range(self.world_size)] if self.is_leader else []
        everything = self._once_all_have_written(keys)
        self.store.delete_key(key)
        return everything

    def _once_all_have_written(self, keys: Sequence[str]) -> list[bytes]:
        """Read when every rank has written, and return when every rank has read: rank 0 holds the store."""
        assert self.store is not None
        dist.barrier(group=self.agreements)
        read = [self.store.get(key) for key in keys]
        dist.barrier(group=self.agreements)
        return read


def join_gang(limit: timedelta, *, needs_group: bool = False) -> Gang:
    """Meet the other ranks as the environment says (RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT).

    A single rank meets nobody; with `needs_group` it has a group of its own, as ZeRO and FSDP ask for.

    Raises an error of torch's, or TimeoutError, when they have not all come after `limit`.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    rank, local_rank = int(os.environ.get("RANK", "0")), int(os.environ.get("LOCAL_RANK", "0"))
    device = _device(local_rank)
    if world_size == 1:
        if needs_group:
            dist.init_process_group(_backend(device), store=HashStore(), rank=0, world_size=1)
        return Gang(rank, local_rank, world_size, device)
    store = _meet(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), rank, world_size, limit)
    dist.init_process_group(
        _backend(device),
        store=PrefixStore("collectives", store),
        rank=rank,
        world_size=world_size,
        timeout=COLLECTIVE_TIMEOUT,
    )
    agreements = dist.new_group(backend="gloo", timeout=AGREEMENT_TIMEOUT)
    assert isinstance(agreements, dist.ProcessGroup), "every rank is a member"
    logger.info("rank %d of %d: all have met", rank, world_size)
    return Gang(rank, local_rank, world_size, device, PrefixStore("agreements", store), agreements)


def leave_gang(gang: Gang) -> None:
    """Close the connections after a run that went well."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _meet(host: str, port: int, rank: int, world_size: int, limit: timedelta) -> TCPStore:
    deadline = time.monotonic() + limit.total_seconds()
    wait_until_resolvable(host, deadline)
    logger.info("rank %d of %d: meeting the others at %s:%d", rank, world_size, host, port)
    left = timedelta(seconds=max(1.0, deadline - time.monotonic()))
    # It asks again and again until rank 0 listens, and rank 0 until all have come.
    store = TCPStore(host, port, world_size, is_master=rank == 0, timeout=left)
    store.set_timeout(AGREEMENT_TIMEOUT)
    return store


def wait_until_resolvable(host: str, deadline: float) -> None:
    """Wait until DNS knows the name: of a pod that has just started it does not yet. Raises TimeoutError."""
    while True:
        try:
            socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"the name {host} of the first pod is not known to DNS ({error.strerror})"
                ) from error
            time.sleep(_RESOLVE_INTERVAL_SECONDS)


def _device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def _backend(device: torch.device) -> str:
    # What is offloaded to the host is brought together there.
    return "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"


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


def _decode(text: bytes, rank: int) -> StageError | None:
    content = json.loads(text)
    if content is None:
        return None
    name, message, step = content
    kind = getattr(errors, name, errors.StorageUnavailable)
    error: StageError = kind(message, step=step, rank=rank)
    return error
