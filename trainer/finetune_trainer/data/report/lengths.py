"""How long the training rows are: percentiles, and a histogram of equally wide buckets."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from finetune_trainer.data.report.model import LengthBucket, LengthReport

Lengths = Sequence[int] | npt.NDArray[np.integer]

_PERCENTILES = (50, 90, 95, 99)
_MOST_BUCKETS = 40


def build_length_report(lengths: Lengths) -> LengthReport:
    """Percentiles by nearest rank, and a histogram of equally wide buckets; zeros where no row is left."""
    ordered = np.sort(np.asarray(lengths, dtype=np.int64))
    if not len(ordered):
        return LengthReport(
            shortest=0, longest=0, mean=0, percentiles={f"p{each}": 0 for each in _PERCENTILES}, histogram=()
        )
    ranks = {percent: -(-len(ordered) * percent // 100) for percent in _PERCENTILES}
    return LengthReport(
        shortest=int(ordered[0]),
        longest=int(ordered[-1]),
        mean=round(float(ordered.mean()), 2),
        percentiles={f"p{percent}": int(ordered[rank - 1]) for percent, rank in ranks.items()},
        histogram=_histogram(ordered),
    )


def _histogram(ordered: npt.NDArray[np.int64]) -> tuple[LengthBucket, ...]:
    width = bucket_width(int(ordered[-1]))
    first = (max(int(ordered[0]), 1) - 1) // width * width
    last = -(-int(ordered[-1]) // width) * width
    edges = list(range(first, max(last, first + width) + 1, width))
    # Rows of at most `up_to`: a bucket holds what is longer than the edge before it.
    counts = np.searchsorted(ordered, edges, side="right")
    counts[0] = 0
    return tuple(
        LengthBucket(up_to_tokens=edge, rows=int(count - before))
        for edge, (before, count) in zip(edges[1:], pairwise(counts), strict=True)
    )


def bucket_width(longest: int) -> int:
    """The smallest power of two with which no more buckets are needed than a page can show.

    Limits such as 512 and 1,024 tokens then end a bucket.
    """
    return 1 << max(-(-longest // _MOST_BUCKETS) - 1, 0).bit_length()
