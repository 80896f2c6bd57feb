"""Where something was found in a text, and which of several overlapping finds stands."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from finetune_api.spec.preparation import Redaction

# Where two finds are equally long, the one whose rules say more wins: a check digit says more than a grouping.
_MOST_SPECIFIC_FIRST = (
    Redaction.EMAIL,
    Redaction.ID_CARD,
    Redaction.BANK_CARD,
    Redaction.IP_ADDRESS,
    Redaction.PHONE,
)


class Extent(NamedTuple):
    """A stretch of a text, from `start` up to but not with `end`."""

    start: int
    end: int


class Finder(Protocol):
    """Finds one kind. The text has its letters, digits and separators narrow (`narrowing.py`)."""

    def __call__(self, text: str, /) -> Iterator[Extent]: ...


class Span(NamedTuple):
    """A find: positions only, never the text."""

    kind: Redaction
    start: int
    end: int


def without_overlaps(spans: Iterable[Span]) -> list[Span]:
    """The spans that stand, in the order of the text: the longest win, then the most specific."""
    kept: list[Span] = []  # in the order of the text, so that only two neighbours can overlap a new one
    for span in sorted(spans, key=_rank):
        position = bisect_left(kept, span.start, key=lambda other: other.start)
        is_free_before = position == 0 or kept[position - 1].end <= span.start
        is_free_after = position == len(kept) or span.end <= kept[position].start
        if is_free_before and is_free_after:
            kept.insert(position, span)
    return kept


def _rank(span: Span) -> tuple[int, int, int]:
    return (span.start - span.end, _MOST_SPECIFIC_FIRST.index(span.kind), span.start)
