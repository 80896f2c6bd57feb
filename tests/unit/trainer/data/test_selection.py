"""Decisions about rows as a whole, on tables of keys, labels and sources."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any

import numpy as np
import pytest

from finetune_api.spec import Balance, BalanceMethod, Leakage
from finetune_trainer.data.near_duplicates import NOTHING, NearRepeats
from finetune_trainer.data.rows import DropReason, Split
from finetune_trainer.data.selection import DROPPED, Choice, Rules, choose_rows
from finetune_trainer.data.spool import KEY_BYTES, RowFacts

TRAIN, VALIDATION, TEST = Split.TRAIN, Split.VALIDATION, Split.TEST


def facts(
    texts: str, *, sources: Sequence[int] = (), labels: Sequence[int] = (), copies: Sequence[int] = ()
) -> RowFacts:
    """A row for each letter; the letter is what it says, large and small letters the same with another label."""
    count = len(texts)
    keys = b"".join(letter.encode().ljust(KEY_BYTES, b"-") for letter in texts)
    return RowFacts(
        source=np.array(sources or [0] * count, np.int16),
        file=np.zeros(count, np.int32),
        number=np.arange(1, count + 1),
        is_line=np.ones(count, np.bool_),
        copy=np.array(copies or [0] * count, np.int8),
        label=np.array(labels or [-1] * count, np.int32),
        length=np.full(count, 10, np.int32),
        learned_count=np.full(count, 5, np.int32),
        key=np.frombuffer(keys, np.uint8).reshape(-1, KEY_BYTES),
        text_key=np.frombuffer(keys.lower(), np.uint8).reshape(-1, KEY_BYTES),
    )  # fmt: skip


def choose(
    rows: RowFacts,
    near: list[int] | None = None,
    leaks: list[int] | None = None,
    labels: Sequence[str] = (),
    **changes: Any,
) -> Choice:
    splits = changes.pop("splits", (TRAIN,))
    rules: dict[str, Any] = {
        "splits": splits,
        "weights": (1.0,) * len(splits),
        "drop_duplicates": False,
        "leakage": Leakage.DROP,
        "validation_fraction": None,
        "balance": None,
        "seed": 42,
        **changes,
    }
    found = None
    if near is not None or leaks is not None:
        nothing = [NOTHING] * len(rows)
        found = NearRepeats(np.array(near or nothing), np.array(leaks or nothing), {}, {})
    return choose_rows(rows, Rules(**rules), found, labels)


def dropped(choice: Choice) -> dict[str, list[int]]:
    return {str(reason): [int(row) for row in rows] for reason, rows in choice.reasons}


def test_without_rules_every_row_is_used_once() -> None:
    choice = choose(facts("abca"))
    assert list(choice.rows_of(TRAIN)) == [0, 1, 2, 3]
    assert list(choice.weight) == [1, 1, 1, 1]
    assert dropped(choice) == {}


def test_of_rows_that_say_the_same_the_first_stays() -> None:
    choice = choose(facts("abcaba"), drop_duplicates=True)
    assert list(choice.rows_of(TRAIN)) == [0, 1, 2]
    assert dropped(choice) == {"Duplicate": [3, 4, 5]}
    assert list(choice.repeats) == [NOTHING, NOTHING, NOTHING, 0, 1, 0]


def test_near_duplicates_go_and_name_what_they_repeat() -> None:
    choice = choose(facts("abcd"), near=[-1, 0, -1, 2], drop_duplicates=True)
    assert list(choice.rows_of(TRAIN)) == [0, 2]
    assert dropped(choice) == {"NearDuplicate": [1, 3]}
    assert list(choice.repeats) == [NOTHING, 0, NOTHING, 2]


def test_a_training_row_that_validation_or_test_repeats_goes() -> None:
    rows = facts("abcdbc", sources=[0, 0, 0, 0, 1, 2])
    choice = choose(rows, splits=(TRAIN, VALIDATION, TEST))
    assert list(choice.rows_of(TRAIN)) == [0, 3]
    assert list(choice.rows_of(VALIDATION)) == [4]
    assert list(choice.rows_of(TEST)) == [5]
    assert dropped(choice) == {"Leakage": [1, 2]}
    assert list(choice.leaks[[1, 2]]) == [4, 5]


@pytest.mark.parametrize("leakage", [Leakage.KEEP, Leakage.FAIL])
def test_leakage_that_is_kept_or_refused_is_known_and_stays_in(leakage: Leakage) -> None:
    choice = choose(facts("abb", sources=[0, 0, 1]), splits=(TRAIN, VALIDATION), leakage=leakage)
    assert list(choice.rows_of(TRAIN)) == [0, 1]
    assert list(choice.leaked) == [1]


def test_a_training_row_that_nearly_repeats_a_held_out_one_leaks() -> None:
    rows = facts("abc", sources=[0, 0, 1])
    choice = choose(rows, leaks=[2, -1, -1], splits=(TRAIN, VALIDATION), drop_duplicates=True)
    assert dropped(choice) == {"Leakage": [0]}


def test_a_held_out_row_is_never_a_duplicate_of_a_training_row() -> None:
    rows = facts("aa", sources=[0, 1])
    choice = choose(rows, splits=(TRAIN, VALIDATION), drop_duplicates=True, leakage=Leakage.KEEP)
    assert list(choice.rows_of(TRAIN)) == [0]
    assert list(choice.rows_of(VALIDATION)) == [1]


# --- the validation split --------------------------------------------------------------------------------------


def letters(count: int) -> str:
    return "".join(chr(ord("一") + number) for number in range(count))


def test_the_fraction_is_set_apart_and_the_rest_stays() -> None:
    choice = choose(facts(letters(50)), validation_fraction=0.1)
    assert (len(choice.rows_of(TRAIN)), len(choice.rows_of(VALIDATION))) == (45, 5)


def test_the_seed_decides_which_rows_are_set_apart() -> None:
    def chosen(seed: int) -> list[int]:
        return list(choose(facts(letters(50)), validation_fraction=0.2, seed=seed).rows_of(VALIDATION))

    assert chosen(1) == chosen(1)
    assert chosen(1) != chosen(2)


def test_every_class_gives_its_share() -> None:
    labels = [0] * 40 + [1] * 10
    choice = choose(facts(letters(50), labels=labels), validation_fraction=0.2)
    assert Counter(labels[row] for row in choice.rows_of(VALIDATION)) == {0: 8, 1: 2}


def test_every_source_gives_its_share_where_rows_have_no_class() -> None:
    sources = [0] * 30 + [1] * 20
    choice = choose(facts(letters(50), sources=sources), splits=(TRAIN, TRAIN), validation_fraction=0.1)
    assert Counter(sources[row] for row in choice.rows_of(VALIDATION)) == {0: 3, 1: 2}


def test_small_classes_together_give_the_fraction() -> None:
    labels = [number // 3 for number in range(30)]
    choice = choose(facts(letters(30), labels=labels), validation_fraction=0.1)
    assert len(choice.rows_of(VALIDATION)) == 3


def test_rows_that_say_the_same_stay_on_one_side() -> None:
    texts = letters(20) * 3
    choice = choose(facts(texts), validation_fraction=0.25)
    sides = [{texts[row] for row in choice.rows_of(split)} for split in (TRAIN, VALIDATION)]
    assert sides[0] & sides[1] == set()
    assert len(sides[1]) == 5


def test_texts_with_two_labels_stay_on_one_side() -> None:
    texts = ascii_uppercase + ascii_uppercase.lower()
    choice = choose(facts(texts), validation_fraction=0.25)
    sides = [{texts[row].lower() for row in choice.rows_of(split)} for split in (TRAIN, VALIDATION)]
    assert sides[0] & sides[1] == set()


def test_a_single_row_is_not_set_apart() -> None:
    choice = choose(facts("a"), validation_fraction=0.5)
    assert (len(choice.rows_of(TRAIN)), len(choice.rows_of(VALIDATION))) == (1, 0)


# --- weights and copies ----------------------------------------------------------------------------------------


def test_sources_have_their_weights() -> None:
    rows = facts("abc", sources=[0, 1, 1])
    choice = choose(rows, splits=(TRAIN, TRAIN), weights=(1.0, 0.5))
    assert list(choice.weight) == [1.0, 0.5, 0.5]


def test_small_classes_are_seen_more_often() -> None:
    labels = [0] * 12 + [1] * 2
    balance = Balance(max_ratio=3)
    choice = choose(facts(letters(14), labels=labels), labels=("many", "few"), balance=balance)
    seen = Counter[int]()
    for row in choice.rows_of(TRAIN):
        seen[labels[row]] += float(choice.weight[row])  # type: ignore[assignment]
    assert seen[0] / seen[1] <= 3 + 1e-6
    assert len(choice.rows_of(TRAIN)) == 14


def test_large_classes_are_cut_down() -> None:
    labels = [0] * 12 + [1] * 2
    balance = Balance(max_ratio=3, method=BalanceMethod.DOWNSAMPLE)
    choice = choose(facts(letters(14), labels=labels), labels=("many", "few"), balance=balance)
    assert Counter(labels[row] for row in choice.rows_of(TRAIN)) == {0: 6, 1: 2}
    assert [reason for reason, _ in choice.reasons] == [DropReason.BALANCE]


def test_copies_are_trained_on_only_beside_their_originals() -> None:
    rows = facts("aabb" + "cc", copies=[0, 1, 0, 1, 0, 1], sources=[0, 0, 0, 0, 0, 0])
    held_out = choose(rows, validation_fraction=0.34)
    for row in (0, 2, 4):
        assert held_out.split[row + 1] == (0 if held_out.split[row] == 0 else DROPPED)
    assert len(held_out.rows_of(VALIDATION)) == 1


def seen_by_class(choice: Choice, labels: list[int]) -> Counter[int]:
    seen = Counter[int]()
    for row in choice.rows_of(TRAIN):
        seen[labels[row]] += round(float(choice.weight[row]) * 1000)
    return seen


def test_classes_are_balanced_with_the_copies_that_are_made_of_their_rows() -> None:
    labels = [0] * 24 + [1, 1]
    copies = [number % 2 for number in range(24)] + [0, 1]
    choice = choose(
        facts(letters(26), labels=labels, copies=copies), labels=("many", "few"), balance=Balance(max_ratio=3)
    )
    seen = seen_by_class(choice, labels)
    assert seen[0] <= 3.01 * seen[1]
    assert choice.weight[24] == choice.weight[25] > 1


@pytest.mark.parametrize("method", BalanceMethod)
def test_classes_are_balanced_with_the_weights_of_their_sources(method: BalanceMethod) -> None:
    labels, sources = [0] * 30 + [1] * 10, [0] * 30 + [1] * 10
    choice = choose(
        facts(letters(40), labels=labels, sources=sources), labels=("a", "b"), splits=(TRAIN, TRAIN),
        weights=(5.0, 1.0), balance=Balance(max_ratio=3, method=method),
    )  # fmt: skip
    seen = seen_by_class(choice, labels)
    assert seen[0] <= 3.01 * seen[1]


def test_no_class_is_only_validated_on() -> None:
    labels = [0] * 40 + [1, 2, 3, 4, 5]
    choice = choose(facts(letters(45), labels=labels), validation_fraction=0.2)
    assert {labels[row] for row in choice.rows_of(TRAIN)} == {0, 1, 2, 3, 4, 5}
    assert len(choice.rows_of(VALIDATION)) == 9
