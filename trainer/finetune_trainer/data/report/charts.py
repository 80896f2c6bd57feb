"""The geometry of the report's pictures, in units that the page stretches to its width: the template only draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from finetune_trainer.data.report.model import LabelBalance, LengthReport, RowsBySplit
from finetune_trainer.data.report.sentences import percent

WIDTH = 1000.0
HEIGHT = 200.0
_GAP = 0.14
_TICKS = 5


@dataclass(frozen=True)
class Bar:
    """A rectangle, what it stands for in words, and which of the page's colours it has."""

    x: float
    y: float
    width: float
    height: float
    title: str
    kind: str = ""


@dataclass(frozen=True)
class Mark:
    """A vertical line at a value of the x axis."""

    x: float
    name: str
    value: int


@dataclass(frozen=True)
class Histogram:
    """Bars from `first_edge` to `last_edge`, ticks at equal distances, and the percentiles as lines."""

    bars: tuple[Bar, ...]
    marks: tuple[Mark, ...]
    ticks: tuple[int, ...]
    most_rows: int


def build_histogram(lengths: LengthReport) -> Histogram | None:
    """Lay out the histogram of row lengths; None where there is no row."""
    buckets = lengths.histogram
    if not buckets:
        return None
    width = _bucket_width(lengths)
    first, last = buckets[0].up_to_tokens - width, buckets[-1].up_to_tokens
    most = max(bucket.rows for bucket in buckets)
    slot = WIDTH / len(buckets)
    bars = tuple(
        Bar(
            x=round(slot * (number + _GAP / 2), 2),
            y=round(HEIGHT * (1 - bucket.rows / most), 2),
            width=round(slot * (1 - _GAP), 2),
            height=round(HEIGHT * bucket.rows / most, 2),
            title=f"{bucket.up_to_tokens - width + 1:,} to {bucket.up_to_tokens:,} tokens: {bucket.rows:,} rows",
        )
        for number, bucket in enumerate(buckets)
    )
    marks = tuple(
        Mark(x=round(WIDTH * (value - first) / (last - first), 2), name=name, value=value)
        for name, value in lengths.percentiles.items()
    )
    ticks = tuple(round(first + (last - first) * number / (_TICKS - 1)) for number in range(_TICKS))
    return Histogram(bars, marks, ticks, most)


def _bucket_width(lengths: LengthReport) -> int:
    edges = [bucket.up_to_tokens for bucket in lengths.histogram]
    # One bucket alone says nothing about its width; it then starts at 0.
    return edges[1] - edges[0] if len(edges) > 1 else edges[0]


def build_shares(parts: Sequence[tuple[str, int | float]]) -> tuple[Bar, ...]:
    """One bar cut into parts, each (kind, amount); parts of nothing are left out."""
    total = sum(amount for _, amount in parts)
    bars: list[Bar] = []
    x = 0.0
    for kind, amount in parts:
        width = WIDTH * amount / total if total else 0.0
        if width:
            bars.append(Bar(round(x, 2), 0, round(width, 2), 1, f"{kind}: {percent(amount / total)}", kind))
        x += width
    return tuple(bars)


def build_row_shares(rows: RowsBySplit, dropped: int) -> tuple[Bar, ...]:
    """Where the rows went."""
    return build_shares(
        [
            ("training", rows.train),
            ("validation", rows.validation),
            ("test", rows.test),
            ("left out", dropped),
        ]
    )


@dataclass(frozen=True)
class LabelBars:
    """One class: its bars before and after, on the scale of the largest class."""

    balance: LabelBalance
    read_width: float
    used_width: float


def build_label_bars(labels: Sequence[LabelBalance]) -> tuple[LabelBars, ...]:
    """Lay out the classes, largest first. After: rows used times how often each is seen."""
    most = max((max(label.rows_read, label.rows_used * label.weight) for label in labels), default=0) or 1
    return tuple(
        LabelBars(
            label,
            round(WIDTH * label.rows_read / most, 2),
            round(WIDTH * label.rows_used * label.weight / most, 2),
        )
        for label in sorted(labels, key=lambda label: (-label.rows_read, label.label))
    )
