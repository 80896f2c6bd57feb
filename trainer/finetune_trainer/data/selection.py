"""Decides about the rows as a whole: what repeats, what is validated on, what leaked, how often classes are seen.

Pure: it looks at keys, labels and sources, never at text. Augmented copies share the fate of the row they were made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from finetune_api.spec import Balance, Leakage
from finetune_trainer.data.balance import decide_balance
from finetune_trainer.data.near_duplicates import NOTHING, NearRepeats
from finetune_trainer.data.rows import DropReason, Split
from finetune_trainer.data.similarity import exact_duplicates, find_leakage
from finetune_trainer.data.spool import Keys, RowFacts

SPLITS = (Split.TRAIN, Split.VALIDATION, Split.TEST)
_TRAIN, _VALIDATION = 0, 1
DROPPED = -1

Numbers = np.ndarray[tuple[int], np.dtype[np.int64]]
SplitNumbers = np.ndarray[tuple[int], np.dtype[np.int8]]
Floats = np.ndarray[tuple[int], np.dtype[np.float32]]
Remainders = np.ndarray[tuple[int], np.dtype[np.float64]]


@dataclass(frozen=True)
class Rules:
    """What the job says about rows as a whole."""

    # Of each source, in order.
    splits: tuple[Split, ...]
    weights: tuple[float, ...]
    drop_duplicates: bool
    leakage: Leakage
    validation_fraction: float | None
    balance: Balance | None
    seed: int


@dataclass(frozen=True)
class Choice:
    """What becomes of each row: arrays [rows]."""

    # Index in SPLITS, or DROPPED.
    split: SplitNumbers
    # How often a training row is seen in an epoch.
    weight: Floats
    # For dropped rows: why, and the earlier row that it repeats (or NOTHING).
    reasons: tuple[tuple[DropReason, Numbers], ...]
    repeats: Numbers
    # Training rows that a validation or test row repeats, whatever was done about them; and for each of all rows that
    # other row (or NOTHING).
    leaked: Numbers
    leaks: Numbers

    def rows_of(self, split: Split) -> Numbers:
        """The rows of a split, in order."""
        return np.flatnonzero(self.split == SPLITS.index(split))


class _Decision:
    """The choice while it is made, step by step."""

    def __init__(self, facts: RowFacts, rules: Rules) -> None:
        self.facts = facts
        split_of_source = np.array([SPLITS.index(split) for split in rules.splits], np.int8)
        self.split = split_of_source[facts.source]
        self.original = facts.copy == 0
        self.repeats = np.full(len(facts), NOTHING, np.int64)
        self.leaks = np.full(len(facts), NOTHING, np.int64)
        self.reasons: list[tuple[DropReason, Numbers]] = []

    @cached_property
    def leaders(self) -> Numbers:
        """For each row the original that it is a copy of, or itself."""
        return np.maximum.accumulate(np.where(self.original, np.arange(len(self.facts)), 0))

    def drop(self, rows: Numbers, reason: DropReason) -> None:
        """Leave rows out that are still in."""
        rows = rows[self.split[rows] != DROPPED]
        if len(rows):
            self.split[rows] = DROPPED
            self.reasons.append((reason, rows))

    def in_split(self, *numbers: int) -> Numbers:
        """Original rows that are (still) in one of these splits."""
        return np.flatnonzero(self.original & np.isin(self.split, numbers))


def choose_rows(facts: RowFacts, rules: Rules, near: NearRepeats | None, labels: Sequence[str]) -> Choice:
    """Decide what becomes of each row."""
    decision = _Decision(facts, rules)
    if rules.drop_duplicates:
        _drop_exact_duplicates(decision)
    leaked = _find_leaked(decision, near)
    if rules.leakage is Leakage.DROP:
        decision.drop(leaked, DropReason.LEAKAGE)
    if near is not None:
        _drop_near_duplicates(decision, near.repeats)
    if rules.validation_fraction is not None:
        _split_off_validation(decision, rules.validation_fraction, rules.seed)
    weight = np.array(rules.weights, np.float32)[facts.source]
    if rules.balance is not None:
        weight = weight * _balance_classes(decision, rules.balance, rules.seed, labels, weight)
    _follow_originals(decision)
    return Choice(
        decision.split,
        weight.astype(np.float32),
        tuple(decision.reasons),
        decision.repeats,
        leaked,
        decision.leaks,
    )


def _drop_exact_duplicates(decision: _Decision) -> None:
    for number in range(len(SPLITS)):
        rows = decision.in_split(number)
        first = _first_with_key(decision.facts.key, rows)
        repeated = rows[first != rows]
        decision.repeats[repeated] = first[first != rows]
        decision.drop(repeated, DropReason.DUPLICATE)


def _first_with_key(keys: Keys, rows: Numbers) -> Numbers:
    """For each of `rows` the first one of them with the same key."""
    repeats = exact_duplicates(keys[rows]).repeats
    first: Numbers = rows[np.where(repeats == NOTHING, np.arange(len(rows)), repeats)]
    return first


def _find_leaked(decision: _Decision, near: NearRepeats | None) -> Numbers:
    """Training rows that say what a validation or test row says."""
    train, held_out = decision.in_split(_TRAIN), decision.in_split(*range(_VALIDATION, len(SPLITS)))
    if not len(held_out):
        return np.zeros(0, np.int64)
    key = decision.facts.key
    found = find_leakage(key[train], key[held_out])
    is_leaked = found != NOTHING
    decision.leaks[train[is_leaked]] = held_out[found[is_leaked]]
    if near is not None:
        is_near = ~is_leaked & (near.leaks[train] != NOTHING)
        decision.leaks[train[is_near]] = near.leaks[train[is_near]]
        is_leaked |= is_near
    leaked: Numbers = train[is_leaked]
    return leaked


def _drop_near_duplicates(decision: _Decision, near: Numbers) -> None:
    rows = np.flatnonzero((near != NOTHING) & (decision.split != DROPPED))
    decision.repeats[rows] = near[rows]
    decision.drop(rows, DropReason.NEAR_DUPLICATE)


def _split_off_validation(decision: _Decision, fraction: float, seed: int) -> None:
    """Set rows apart, the same share of every class (or source); rows that say the same stay together."""
    train = decision.in_split(_TRAIN)
    if not len(train):
        return
    # Also where they have different labels: the question would be known, and answered otherwise.
    leaders = _first_with_key(decision.facts.text_key, train)
    groups = np.unique(leaders)
    has_labels = bool(np.any(decision.facts.label[train] >= 0))
    strata = (decision.facts.label if has_labels else decision.facts.source)[groups].astype(np.int64)
    chosen = _stratified(groups, strata, fraction, seed)
    decision.split[train[np.isin(leaders, chosen)]] = _VALIDATION


def _stratified(groups: Numbers, strata: Numbers, fraction: float, seed: int) -> Numbers:
    # Shares are rounded by largest remainder, so that the total is right also where every class is small. Of no class
    # all rows are taken: what is never trained on cannot be answered.
    random = np.random.RandomState([seed, 0x5E1EC7])
    values, counts = np.unique(strata, return_counts=True)
    wanted = min(max(1, round(fraction * len(groups))), len(groups) - 1)
    exact = counts * fraction
    quota = np.minimum(np.floor(exact).astype(np.int64), counts - 1)
    for index in _with_most_left(exact - quota, counts - 1 - quota, wanted - int(quota.sum())):
        quota[index] += 1
    chosen = [
        random.permutation(groups[strata == value])[:count]
        for value, count in zip(values, quota, strict=True)
    ]
    return np.sort(np.concatenate(chosen))


def _with_most_left(remainders: Remainders, room: Numbers, wanted: int) -> list[int]:
    """The classes that give one row more: those that lost most to rounding, and of these the larger ones first."""
    order = np.lexsort((-room, -remainders))
    return [int(index) for index in order if room[index] > 0][: max(0, wanted)]


def _balance_classes(
    decision: _Decision, balance: Balance, seed: int, labels: Sequence[str], weight: Floats
) -> Floats:
    """How much more often rows are seen for their class; copies as their originals."""
    facts = decision.facts
    train = decision.in_split(_TRAIN)
    train = train[facts.label[train] >= 0]
    names = [labels[label] for label in facts.label[train]]
    copies = np.bincount(decision.leaders, minlength=len(facts))
    seen = (weight[train] * copies[train]).tolist()
    balanced = decide_balance(names, balance.max_ratio, balance.method, seed, seen)
    if balanced.keep is not None:
        decision.drop(train[~balanced.keep], DropReason.BALANCE)
    factor = np.ones(len(facts), np.float32)
    factor[train] = [balanced.weights[name] for name in names]
    return factor[decision.leaders]


def _follow_originals(decision: _Decision) -> None:
    """A copy is trained on where its original is; of others nothing is left."""
    copies = np.flatnonzero(~decision.original)
    decision.split[copies] = np.where(decision.split[decision.leaders[copies]] == _TRAIN, _TRAIN, DROPPED)
