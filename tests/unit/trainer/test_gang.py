"""How ranks meet and agree: real processes over loopback."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from finetune_trainer.errors import StorageDenied
from finetune_trainer.gang import Gang, join_gang, leave_gang, wait_until_resolvable
from finetune_trainer.placement import Placement, free_port
from finetune_trainer.rank_processes import default_environment, rank_environment

CONTEXT = multiprocessing.get_context("spawn")
LIMIT = timedelta(seconds=60)


def _rank_main(rank: int, port: int, folder: str, body: Callable[[Gang, Path], None]) -> None:
    pod = Placement(0, 1, 2)
    os.environ |= {**default_environment(pod, threads=1), **rank_environment(rank, pod, port)}
    body(join_gang(LIMIT), Path(folder))


def start_two(body: Callable[[Gang, Path], None], folder: Path) -> list[Any]:
    port = free_port()
    ranks = [CONTEXT.Process(target=_rank_main, args=(rank, port, str(folder), body)) for rank in range(2)]
    for process in ranks:
        process.start()
    return ranks


def exit_codes(ranks: list[Any]) -> list[int | None]:
    for process in ranks:
        process.join(60)
    return [process.exitcode for process in ranks]


def _exchange(gang: Gang, folder: Path) -> None:
    told = gang.hear_leader("start", f"from {gang.rank}")
    gathered = gang.collect("random", bytes([gang.rank]) * 3)
    said = ""
    try:
        gang.do_together("files", lambda: _fail() if gang.rank == 1 else None)
    except StorageDenied as error:
        said = f"{error.message} of rank {error.rank}"
    (folder / str(gang.rank)).write_text(
        f"{told}|{gathered}|{said}|{gang.total(gang.rank + 1.0)[0]}|{gang.least(5 - gang.rank)}"
    )


def _fail() -> None:
    raise StorageDenied("denied")


def test_ranks_hear_gather_agree_and_add_up(tmp_path: Path) -> None:
    assert exit_codes(start_two(_exchange, tmp_path)) == [0, 0]
    assert (tmp_path / "0").read_text() == r"from 0|[b'\x00\x00\x00', b'\x01\x01\x01']|denied of rank 1|3.0|4"
    assert (tmp_path / "1").read_text() == "from 0|[]|denied of rank 1|3.0|4"


@pytest.mark.parametrize("needs_group", [True, False], ids=["asked for", "not asked for"])
def test_a_single_rank_has_a_group_where_one_is_asked_for(
    needs_group: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ZeRO and FSDP compute with collectives, also where they only offload."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    gang = join_gang(LIMIT, needs_group=needs_group)
    try:
        assert dist.is_initialized() == needs_group
        assert (gang.rank, gang.world_size, gang.is_leader) == (0, 1, True)
        if needs_group:
            figures = torch.ones(2)
            dist.all_reduce(figures)
            assert figures.tolist() == [1.0, 1.0]
        # Nobody is asked about anything.
        assert gang.total(2.0, 3.0) == (2.0, 3.0)
        assert gang.least(7) == 7
        assert gang.collect("random", b"12") == [b"12"]
        assert gang.hear_leader("start", "here") == "here"
    finally:
        leave_gang(gang)
    assert not dist.is_initialized()


class _SlowStore:
    """A rank's way to the store on which every answer takes long."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.set = store.set

    def get(self, key: str) -> bytes:
        time.sleep(0.5)
        answer: bytes = self._store.get(key)
        return answer


def _slowed_follower(gang: Gang) -> Gang:
    return gang if gang.is_leader else replace(gang, store=_SlowStore(gang.store))  # type: ignore[arg-type]


def _hear_and_leave(gang: Gang, folder: Path) -> None:
    heard = _slowed_follower(gang).hear_leader("last", "the end")
    (folder / str(gang.rank)).write_text(heard)
    os._exit(0)


def _agree_and_leave(gang: Gang, folder: Path) -> None:
    try:
        _slowed_follower(gang).do_together("last", lambda: _fail() if gang.rank == 1 else None)
    except StorageDenied as error:
        (folder / str(gang.rank)).write_text(str(error))
    os._exit(0)


@pytest.mark.parametrize(("body", "said"), [(_hear_and_leave, "the end"), (_agree_and_leave, "denied")])
def test_the_leader_stays_until_the_slowest_rank_has_read(
    body: Callable[[Gang, Path], None], said: str, tmp_path: Path
) -> None:
    """It holds the store: whoever reads after it has gone would take the end of the run for a lost rank."""
    assert exit_codes(start_two(body, tmp_path)) == [0, 0]
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == [said, said]


def _wait_for_ever(gang: Gang, folder: Path) -> None:
    (folder / f"ready-{gang.rank}").touch()
    if gang.rank == 1:
        time.sleep(600)
    gang.agree("commit", None)


def test_who_waits_for_an_agreement_hears_of_a_lost_rank_at_once(tmp_path: Path) -> None:
    """Its limit is hours, because an upload may take long."""
    ranks = start_two(_wait_for_ever, tmp_path)
    deadline = time.monotonic() + 60
    while not all((tmp_path / f"ready-{rank}").exists() for rank in range(2)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(ranks[1].pid, signal.SIGKILL)
    assert exit_codes(ranks) == [1, -signal.SIGKILL]


def test_a_name_that_dns_does_not_know_yet_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve, asked = socket.getaddrinfo, []

    def known_at_the_third_time(host: str, *arguments: Any, **options: Any) -> Any:
        asked.append(host)
        return resolve("nowhere.invalid" if len(asked) < 3 else "127.0.0.1", *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", known_at_the_third_time)
    wait_until_resolvable("bot-train-1-0.bot-train-1", time.monotonic() + 30)
    assert asked == ["bot-train-1-0.bot-train-1"] * 3


def test_a_name_that_dns_never_knows_is_named() -> None:
    with pytest.raises(TimeoutError, match=r"the name nowhere\.invalid of the first pod is not known to DNS"):
        wait_until_resolvable("nowhere.invalid", time.monotonic())
