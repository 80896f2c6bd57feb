"""Pauses between kopf's tries: longer and longer, with jitter, and without an end."""

from __future__ import annotations

from itertools import islice

from finetune_operator.kopf_settings import Backoffs


def test_pauses_grow_to_a_bound_and_never_end() -> None:
    pauses = list(islice(Backoffs(jitter=lambda: 0.0), 1000))

    assert pauses[:6] == [0.5, 1, 2, 4, 8, 8]
    assert set(pauses[6:]) == {8}


def test_pauses_have_jitter_and_each_request_begins_anew() -> None:
    backoffs = Backoffs()

    first, second = list(islice(backoffs, 5)), list(islice(backoffs, 5))

    assert first != second
    assert all(0.5 <= pauses[0] <= 0.75 and 8 <= pauses[4] <= 12 for pauses in (first, second))
