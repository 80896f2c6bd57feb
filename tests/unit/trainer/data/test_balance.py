"""Classes that are evened out."""

from __future__ import annotations

from collections import Counter

import pytest

from finetune_api.spec import BalanceMethod
from finetune_trainer.data.balance import decide_balance

OVERSAMPLE, DOWNSAMPLE = BalanceMethod.OVERSAMPLE, BalanceMethod.DOWNSAMPLE


def labels_of(**counts: int) -> list[str]:
    return [label for label, rows in counts.items() for _ in range(rows)]


@pytest.mark.parametrize(
    ("counts", "max_ratio", "weights"),
    [
        pytest.param({"b": 5, "a": 60}, 3, {"a": 1.0, "b": 4.0}, id="a small class is seen more often"),
        pytest.param({"a": 60, "b": 20}, 3, {"a": 1.0, "b": 1.0}, id="classes within the ratio stay"),
        pytest.param(
            {"a": 60, "b": 30, "c": 6}, 2, {"a": 1.0, "b": 1.0, "c": 5.0}, id="no more than it must"
        ),
        pytest.param({"a": 7, "b": 3}, 1, {"a": 1.0, "b": 7 / 3}, id="all the same"),
        pytest.param({"a": 7}, 1, {"a": 1.0}, id="one class"),
        pytest.param({}, 3, {}, id="no rows"),
    ],
)
def test_oversampling_weighs_small_classes(
    counts: dict[str, int], max_ratio: float, weights: dict[str, float]
) -> None:
    balanced = decide_balance(labels_of(**counts), max_ratio, OVERSAMPLE)
    assert balanced.keep is None
    assert dict(balanced.weights) == weights
    assert list(balanced.weights) == sorted(weights)


@pytest.mark.parametrize("max_ratio", [1, 1.5, 3, 7.3])
@pytest.mark.parametrize("method", [OVERSAMPLE, DOWNSAMPLE])
def test_afterwards_the_ratio_holds(max_ratio: float, method: BalanceMethod) -> None:
    labels = labels_of(a=97, b=31, c=5, d=1)
    balanced = decide_balance(labels, max_ratio, method, seed=3)
    kept = Counter(label for row, label in enumerate(labels) if balanced.keep is None or balanced.keep[row])
    seen = [rows * balanced.weights[label] for label, rows in kept.items()]
    assert set(kept) == set("abcd")
    assert max(seen) <= max_ratio * min(seen) * (1 + 1e-9)


def test_downsampling_leaves_rows_of_large_classes_out() -> None:
    labels = ["a", "b"] * 10 + ["a"] * 50
    balanced = decide_balance(labels, 2, DOWNSAMPLE, seed=1)
    assert balanced.keep is not None
    assert Counter(label for label, kept in zip(labels, balanced.keep, strict=True) if kept) == {
        "a": 20,
        "b": 10,
    }
    assert dict(balanced.weights) == {"a": 1.0, "b": 1.0}


def test_downsampling_keeps_all_within_the_ratio() -> None:
    assert decide_balance(labels_of(a=6, b=2), 3, DOWNSAMPLE).keep is None
    assert decide_balance([], 3, DOWNSAMPLE).keep is None


def test_the_rows_that_stay_are_drawn_by_the_seed() -> None:
    labels = labels_of(a=50, b=5)

    def kept(seed: int) -> list[bool]:
        keep = decide_balance(labels, 2, DOWNSAMPLE, seed).keep
        assert keep is not None
        return keep.tolist()

    assert kept(1) == kept(1)
    assert kept(1) != kept(2)


def test_the_choice_is_the_same_in_every_release() -> None:
    keep = decide_balance(labels_of(a=8, b=1), 3, DOWNSAMPLE, seed=7).keep
    assert keep is not None
    assert keep.nonzero()[0].tolist() == [1, 5, 7, 8]
