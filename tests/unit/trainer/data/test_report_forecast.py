"""The forecast of a run, against figures worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from finetune_trainer.data.batches import DataOrder, order_rows
from finetune_trainer.data.report import forecast_run


def test_a_step_of_two_rows_is_padded_to_the_longer() -> None:
    forecast = forecast_run([10, 30], DataOrder(2, 2, seed=0), total_steps=6, micro_batch_tokens=64)
    # 40 tokens are needed and 2 x 30 computed.
    assert forecast.padded_share_unpacked == pytest.approx(20 / 60, abs=1e-6)
    assert forecast.padded_share_packed == 0
    assert (forecast.steps_per_epoch, forecast.total_steps, forecast.epochs) == (1, 6, 6)
    assert (forecast.global_batch_size, forecast.micro_batch_tokens) == (2, 64)


def test_rows_of_one_length_need_no_padding() -> None:
    forecast = forecast_run([50] * 64, DataOrder(64, 8, seed=0), total_steps=24, micro_batch_tokens=None)
    assert (forecast.padded_share_unpacked, forecast.padded_share_packed) == (0, 0)


def test_a_rank_without_a_row_computes_one_token_for_nothing() -> None:
    forecast = forecast_run(
        [99], DataOrder(1, 1, seed=0), total_steps=1, micro_batch_tokens=128, world_size=4
    )
    assert forecast.padded_share_packed == pytest.approx(3 / 102, abs=1e-6)


def test_a_fraction_of_an_epoch_is_told() -> None:
    forecast = forecast_run([5] * 100, DataOrder(100, 8, seed=0), total_steps=20, micro_batch_tokens=64)
    assert forecast.steps_per_epoch == 13
    assert forecast.epochs == pytest.approx(20 / 13, abs=1e-4)


def test_weighted_rows_make_the_steps_that_training_takes() -> None:
    order = order_rows(np.array([3.0, 1.0], np.float32), 1, seed=0)
    forecast = forecast_run([10, 30], order, total_steps=4, micro_batch_tokens=64)
    assert forecast.steps_per_epoch == 4


def test_two_hundred_steps_speak_for_a_long_run() -> None:
    lengths = np.clip(np.random.RandomState(3).lognormal(4.5, 0.8, 20_000), 16, 512).astype(np.int64)
    order = DataOrder(len(lengths), 16, seed=1)
    share = forecast_run(lengths, order, total_steps=1250, micro_batch_tokens=2048).padded_share_unpacked
    steps = [lengths[order.rows_of_step(step)] for step in range(1250)]
    needed, computed = sum(rows.sum() for rows in steps), sum(rows.max() * len(rows) for rows in steps)
    assert share == pytest.approx(1 - needed / computed, abs=0.01)
