"""Decides which checkpoints are kept: the newest, and the best by their loss on the validation rows. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Retention:
    """How many of each, as spec.checkpoints says."""

    keep_last: int
    keep_best: int


@dataclass(frozen=True)
class Kept:
    """What retention knows of a checkpoint."""

    step: int
    eval_loss: float | None


def decide_kept(newest_first: Sequence[Kept], retention: Retention) -> list[int]:
    """Steps that are kept, the newest first. Of equally good ones the earlier is the better."""
    last = [each.step for each in newest_first[: retention.keep_last]]
    rated = sorted(
        ((each.eval_loss, each.step) for each in newest_first if each.eval_loss is not None),
    )
    best = [step for _, step in rated[: retention.keep_best]]
    return sorted({*last, *best}, reverse=True)
