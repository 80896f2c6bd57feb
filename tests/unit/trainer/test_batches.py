"""Which rows form a step, and how they are spread."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from finetune_trainer.data.batches import DataOrder, order_rows, split_step


def test_every_epoch_takes_every_row_once_in_another_order() -> None:
    order = DataOrder(row_count=23, global_batch_size=5, seed=7)
    epochs = [[order.rows_of_step(epoch * 5 + step) for step in range(5)] for epoch in range(2)]
    flat = [[row for step in epoch for row in step] for epoch in epochs]
    assert sorted(flat[0]) == sorted(flat[1]) == list(range(23))
    assert flat[0] != flat[1]
    assert [len(step) for step in epochs[0]] == [5, 5, 5, 5, 3]


def test_order_depends_on_the_seed_and_nothing_else() -> None:
    def order(seed: int, batch: int) -> list[int]:
        steps = DataOrder(row_count=12, global_batch_size=batch, seed=seed)
        return [row for step in range(steps.steps_per_epoch) for row in steps.rows_of_step(step)]

    assert order(seed=1, batch=4) == order(seed=1, batch=3)
    assert order(seed=1, batch=4) != order(seed=2, batch=4)


def test_order_is_the_same_in_every_release() -> None:
    """A run that is taken up again by a newer image must go on with the rows it was going to see."""
    assert DataOrder(row_count=10, global_batch_size=4, seed=42).rows_of_step(0) == [5, 0, 6, 4]


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("limit", [16, 100, 10_000])
def test_split_keeps_every_row_once_within_the_limit_and_as_many_micro_batches_on_every_rank(
    world_size: int, limit: int
) -> None:
    source = random.Random(world_size * limit)
    lengths = [source.randint(1, 120) for _ in range(37)]
    shares = split_step(lengths, world_size, limit)
    assert len(shares) == world_size
    assert len({len(share) for share in shares}) == 1
    rows = [row for share in shares for micro_batch in share for row in micro_batch]
    assert sorted(rows) == list(range(37))
    for share in shares:
        for micro_batch in share:
            assert len(micro_batch) <= 1 or sum(lengths[row] for row in micro_batch) <= limit


def test_row_longer_than_the_limit_stands_alone() -> None:
    ((first, *others),) = split_step([500, 10, 10, 10], world_size=1, micro_batch_tokens=64)
    assert first == (0,)
    assert sorted(row for micro_batch in others for row in micro_batch) == [1, 2, 3]


def test_rank_without_rows_gets_a_dummy() -> None:
    shares = split_step([10], world_size=3, micro_batch_tokens=64)
    assert sorted(shares) == [((),), ((),), ((0,),)]


def test_ranks_compute_about_as_much_at_the_same_time() -> None:
    source = random.Random(0)
    lengths = [source.randint(16, 512) for _ in range(64)]
    first, second = split_step(lengths, world_size=2, micro_batch_tokens=4096)
    for one, other in zip(first, second, strict=True):
        tokens = [sum(lengths[row] for row in micro_batch) for micro_batch in (one, other)]
        assert max(tokens) <= 1.05 * min(tokens)


def test_a_bound_below_every_row_computes_row_by_row_and_nothing_empty() -> None:
    ((*micro_batches,),) = split_step([64] * 8, world_size=1, micro_batch_tokens=1)
    assert sorted(micro_batches) == [(row,) for row in range(8)]


def test_no_more_micro_batches_than_the_tokens_need() -> None:
    ((*micro_batches,),) = split_step([64] * 32, world_size=1, micro_batch_tokens=512)
    assert len(micro_batches) == 4


# --- weights ---------------------------------------------------------------------------------------------------


def seen_in_epochs(weights: list[float], epochs: int, batch: int = 4) -> list[Counter[int]]:
    order = order_rows(np.array(weights, np.float32), batch, seed=7)
    steps = order.steps_per_epoch
    return [
        Counter(row for step in range(steps) for row in order.rows_of_step(epoch * steps + step))
        for epoch in range(epochs)
    ]


def test_rows_that_all_weigh_one_are_ordered_as_rows_without_weights() -> None:
    order = order_rows(np.ones(10, np.float32), 4, seed=42)
    assert order == DataOrder(10, 4, 42)


def test_a_row_of_weight_two_is_seen_twice_in_every_epoch() -> None:
    for seen in seen_in_epochs([1.0, 2.0, 1.0, 2.0, 3.0], epochs=3):
        assert seen == {0: 1, 1: 2, 2: 1, 3: 2, 4: 3}


def test_of_weight_one_half_each_row_is_seen_every_other_epoch() -> None:
    epochs = seen_in_epochs([0.5] * 10, epochs=4)
    assert [seen.total() for seen in epochs] == [5, 5, 5, 5]
    assert sum(epochs[:2], Counter()) == Counter(range(10))
    assert sum(epochs, Counter()) == dict.fromkeys(range(10), 2)


def test_every_epoch_has_the_same_number_of_rows_and_steps() -> None:
    weights = [1.0] * 7 + [0.3] * 10 + [2.25] * 8
    order = order_rows(np.array(weights, np.float32), 4, seed=0)
    assert order.rows_per_epoch == 7 + 3 + 18
    assert {seen.total() for seen in seen_in_epochs(weights, epochs=5)} == {28}


def test_weighted_rows_are_the_same_for_the_same_seed_and_other_for_another() -> None:
    def rows(seed: int) -> list[int]:
        order = order_rows(np.array([0.5] * 40, np.float32), 4, seed)
        return [row for step in range(10) for row in order.rows_of_step(step)]

    assert rows(1) == rows(1)
    assert rows(1) != rows(2)
