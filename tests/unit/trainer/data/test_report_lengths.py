"""Row lengths: percentiles by nearest rank, a histogram without gaps, and its picture."""

from __future__ import annotations

import numpy as np
import pytest

from finetune_trainer.data.report import build_length_report
from finetune_trainer.data.report.charts import HEIGHT, WIDTH, build_histogram
from finetune_trainer.data.report.lengths import bucket_width


def test_percentiles_are_lengths_of_rows() -> None:
    report = build_length_report(list(range(1, 101)))
    assert report.percentiles == {"p50": 50, "p90": 90, "p95": 95, "p99": 99}
    assert (report.shortest, report.longest, report.mean) == (1, 100, 50.5)


def test_one_row_is_every_percentile() -> None:
    report = build_length_report([7])
    assert set(report.percentiles.values()) == {7}
    assert [bucket.rows for bucket in report.histogram] == [1]


def test_no_row_has_no_histogram() -> None:
    report = build_length_report([])
    assert (report.longest, report.histogram) == (0, ())
    assert build_histogram(report) is None


@pytest.mark.parametrize(
    ("longest", "width"), [(1, 1), (40, 1), (41, 2), (80, 2), (512, 16), (1024, 32), (131_072, 4096)]
)
def test_buckets_are_as_narrow_as_a_page_can_show(longest: int, width: int) -> None:
    assert bucket_width(longest) == width


@pytest.mark.parametrize(
    "lengths",
    [
        pytest.param([1], id="one token"),
        pytest.param([512] * 9, id="all of one length"),
        pytest.param([16, 17, 32, 33], id="on the edges"),
        pytest.param([3, 1000], id="a gap"),
        pytest.param([131_072, 1], id="very long"),
        pytest.param(np.random.RandomState(0).randint(1, 700, 5000), id="many, as an array"),
    ],
)
def test_every_row_is_in_the_bucket_of_its_length(lengths: list[int]) -> None:
    buckets = build_length_report(lengths).histogram
    edges = [bucket.up_to_tokens for bucket in buckets]
    width = edges[1] - edges[0] if len(edges) > 1 else edges[0]
    assert edges == list(range(edges[0], edges[-1] + 1, width))
    for bucket in buckets:
        inside = [each for each in lengths if bucket.up_to_tokens - width < each <= bucket.up_to_tokens]
        assert bucket.rows == len(inside)
    assert sum(bucket.rows for bucket in buckets) == len(lengths)
    assert len(buckets) <= 40


def test_the_histogram_fills_its_picture_and_marks_the_percentiles() -> None:
    histogram = build_histogram(build_length_report([100] * 50 + [300] * 49 + [512]))
    assert histogram is not None
    assert max(bar.height for bar in histogram.bars) == HEIGHT
    assert all(bar.x >= 0 and bar.x + bar.width <= WIDTH for bar in histogram.bars)
    assert all(bar.y + bar.height == pytest.approx(HEIGHT) for bar in histogram.bars)
    first, last = histogram.ticks[0], histogram.ticks[-1]
    assert (first, last, histogram.most_rows) == (96, 512, 50)
    p50 = histogram.marks[0]
    assert p50.x == pytest.approx(WIDTH * (100 - first) / (last - first), abs=0.01)
    tallest = max(histogram.bars, key=lambda bar: bar.height)
    assert tallest.title == "97 to 112 tokens: 50 rows"
    assert tallest.x <= p50.x <= tallest.x + tallest.width
