"""Counts what happens to rows while they pass: workers fill a tally each, the main process merges them in order.

Bounded however many rows there are: a count for each reason, and the first few examples of it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from finetune_trainer.data.report.model import ChangedRows, DroppedExample, DroppedRows
from finetune_trainer.data.rows import DropReason, Place

EXAMPLES_KEPT = 10
EXCERPT_CHARACTERS = 120
# A joiner holds emoji together; every other character without a shape of its own is shown as unreadable.
_JOINER = "\u200d"


@dataclass
class _Drops:
    rows: int = 0
    first: list[DroppedExample] = field(default_factory=list)


@dataclass
class _Changes:
    rows: int = 0
    occurrences: int = 0


@dataclass
class Tally:
    """Mutable, picklable and mergeable."""

    rows_read_by_source: Counter[int] = field(default_factory=Counter)
    rows_truncated: int = 0
    _drops: dict[DropReason, _Drops] = field(default_factory=dict)
    _changes: dict[str, _Changes] = field(default_factory=dict)

    def read(self, source_index: int) -> None:
        """Count a row, or what stands in its place and is none."""
        self.rows_read_by_source[source_index] += 1

    def drop(
        self,
        reason: DropReason,
        place: Place,
        why: str,
        *,
        column: str | None = None,
        excerpt: str | None = None,
    ) -> None:
        """Count a row that is left out. `excerpt` is its text after cleaning, of any length; None shows nothing."""
        drops = self._drops.setdefault(reason, _Drops())
        drops.rows += 1
        if len(drops.first) < EXAMPLES_KEPT:
            shown = None if excerpt is None else cut_excerpt(excerpt)
            drops.first.append(DroppedExample(where=str(place), column=column, why=why, excerpt=shown))

    def change(self, step: str, occurrences: int) -> None:
        """Count a row in which a step of the cleaning changed something, and in how many places."""
        changes = self._changes.setdefault(step, _Changes())
        changes.rows += 1
        changes.occurrences += occurrences

    def truncate(self) -> None:
        """Count a row that is cut at the longest length."""
        self.rows_truncated += 1

    def merge(self, other: Tally) -> None:
        """Add what another tally counted, later in the data than all that this one has seen."""
        self.rows_read_by_source.update(other.rows_read_by_source)
        self.rows_truncated += other.rows_truncated
        for reason, theirs in other._drops.items():
            drops = self._drops.setdefault(reason, _Drops())
            drops.rows += theirs.rows
            drops.first.extend(theirs.first[: EXAMPLES_KEPT - len(drops.first)])
        for step, their_changes in other._changes.items():
            changes = self._changes.setdefault(step, _Changes())
            changes.rows += their_changes.rows
            changes.occurrences += their_changes.occurrences

    @property
    def rows_read(self) -> int:
        """All rows that were read."""
        return self.rows_read_by_source.total()

    @property
    def rows_dropped(self) -> int:
        """All rows that are left out."""
        return sum(drops.rows for drops in self._drops.values())

    def rows_dropped_for(self, reason: DropReason) -> int:
        """Rows left out for one reason."""
        return self._drops[reason].rows if reason in self._drops else 0

    def first_dropped(self, reason: DropReason) -> tuple[DroppedExample, ...]:
        """The first rows left out for one reason."""
        return tuple(self._drops[reason].first) if reason in self._drops else ()

    def dropped(self) -> tuple[DroppedRows, ...]:
        """The reasons that have rows, in the order in which a row meets them."""
        return tuple(
            DroppedRows(
                reason=reason,
                rows=self.rows_dropped_for(reason),
                share=round(self.rows_dropped_for(reason) / max(self.rows_read, 1), 6),
                first=self.first_dropped(reason),
            )
            for reason in DropReason
            if reason in self._drops
        )

    def changed(self) -> tuple[ChangedRows, ...]:
        """What the cleaning changed, sorted by step: which worker met it first says nothing."""
        return tuple(
            ChangedRows(step=step, rows=changes.rows, occurrences=changes.occurrences)
            for step, changes in sorted(self._changes.items())
        )


def cut_excerpt(text: str) -> str:
    """The beginning of a text on one line, without characters that could change how the rest is shown."""
    # White space folds to less, so that four times the length is enough in nearly every text, and bounds the work.
    folded = " ".join(text[: 4 * EXCERPT_CHARACTERS].split())
    shown = "".join(each if each.isprintable() or each == _JOINER else "\ufffd" for each in folded)
    if len(shown) <= EXCERPT_CHARACTERS and len(text) <= 4 * EXCERPT_CHARACTERS:
        return shown
    return shown[: EXCERPT_CHARACTERS - 1].rstrip() + "…"
