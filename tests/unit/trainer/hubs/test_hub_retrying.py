"""How long a hub is waited for."""

from __future__ import annotations

import pytest

from finetune_trainer.errors import StorageUnavailable
from finetune_trainer.hubs.retrying import Attempts, Patience, TryAgain, persist

SHORT = Patience(total_seconds=0.1, first_wait_seconds=0.001, longest_wait_seconds=0.004)


def test_what_fails_at_first_succeeds_later() -> None:
    failures = [TryAgain("busy"), TryAgain("busy", wait_seconds=0.0)]

    def ask() -> str:
        if failures:
            raise failures.pop()
        return "done"

    assert persist(SHORT, "ask", ask) == "done"


def test_patience_ends() -> None:
    def ask() -> None:
        raise TryAgain("the hub answers 503")

    with pytest.raises(
        StorageUnavailable, match=r"Could not ask: the hub answers 503, also when tried again \(\d\d+ times\)"
    ):
        persist(SHORT, "ask", ask)


def test_a_wait_longer_than_the_patience_is_not_begun() -> None:
    with pytest.raises(StorageUnavailable, match=r"\(1 times\)"):
        Attempts(Patience(), "ask").wait(TryAgain("busy", wait_seconds=3600.0))


def test_something_that_arrived_gives_all_patience_back() -> None:
    attempts = Attempts(SHORT, "fetch")
    for _ in range(60):  # more than its patience is long
        attempts.wait(TryAgain("cut", wait_seconds=0.004))
        attempts.start_over()


def test_other_failures_are_passed_on() -> None:
    def ask() -> None:
        raise KeyError("no hub's business")

    with pytest.raises(KeyError):
        persist(SHORT, "ask", ask)
