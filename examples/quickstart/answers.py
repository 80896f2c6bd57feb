"""Base and fine-tuned model side by side on the held-out requests, which no training row repeats."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SHOWN = 4


@dataclass(frozen=True)
class Comparison:
    """Share of held-out requests answered with the right intent, word for word."""

    accuracy_before: float
    accuracy_after: float


def compare(base: Path, tuned: Path) -> Comparison:
    """Let both models answer every held-out request; print the two accuracies and a few answers."""
    from examples.quickstart.evaluate import evaluate  # torch is imported only once it is needed

    before, after = evaluate(base), evaluate(tuned)
    for old, new in list(zip(before.answers, after.answers, strict=True))[:SHOWN]:
        print(
            f"  {new.request}\n    before: {old.answer[:40]!r}   after: {new.answer!r}   right: {new.intent!r}"
        )
    print(
        f"  accuracy on {after.rows} held-out requests: {before.accuracy:.1%} before, {after.accuracy:.1%} after"
    )
    return Comparison(before.accuracy, after.accuracy)
