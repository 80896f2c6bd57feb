"""What prepare found in the data: counted while rows pass by, written as report.json, told in sentences."""

from __future__ import annotations

import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal

from finetune_api.base import ApiModel
from finetune_trainer.data.prepared import TokenizedRow
from finetune_trainer.data.sources import RowProblem
from finetune_trainer.data.tokenization import ModelTokenizer

_EXAMPLES_KEPT = 20
_EXAMPLE_TOKENS = 1024
_PERCENTILES = (50, 90, 95, 99)


class SourceReport(ApiModel):
    """One source of rows."""

    source: str
    format: str
    rows_read: int


class DroppedRows(ApiModel):
    """Rows left out for one reason: how many, and the first of them."""

    rows: int
    first: tuple[str, ...]


class LengthBucket(ApiModel):
    """Rows of at most `up_to_tokens` tokens that are in no smaller bucket."""

    up_to_tokens: int
    rows: int


class LengthReport(ApiModel):
    """How long the rows are that are trained on, in tokens."""

    longest: int
    percentiles: dict[str, int]
    histogram: tuple[LengthBucket, ...]


class Segment(ApiModel):
    """Consecutive tokens of the example that are all learned, or all not."""

    text: str
    learned: bool


class Example(ApiModel):
    """One row as the model sees it."""

    where: str
    tokens: int
    segments: tuple[Segment, ...]


class DataReport(ApiModel):
    """`report.json`. Equal data and settings give equal bytes."""

    schema_version: Literal[1] = 1
    sources: tuple[SourceReport, ...]
    rows_read: int
    rows_used: int
    rows_dropped: int
    invalid: DroppedRows
    overlong: DroppedRows
    nothing_to_learn: DroppedRows
    rows_truncated: int
    tokens: int
    learned_tokens: int
    lengths: LengthReport
    mask_source: str
    example: Example


@dataclass
class Drops:
    """Counts rows left out for one reason."""

    rows: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, sentence: str) -> None:
        """Count one row."""
        self.rows += 1
        if len(self.first) < _EXAMPLES_KEPT:
            self.first.append(sentence)

    def report(self) -> DroppedRows:
        """The count and the first rows."""
        return DroppedRows(rows=self.rows, first=tuple(self.first))


@dataclass
class Tally:
    """Counts what happens to the rows while they pass."""

    sources: list[SourceReport] = field(default_factory=list)
    rows_read: int = 0
    invalid: Drops = field(default_factory=Drops)
    overlong: Drops = field(default_factory=Drops)
    nothing_to_learn: Drops = field(default_factory=Drops)
    rows_truncated: int = 0
    learned_tokens: int = 0
    lengths: array.array[int] = field(default_factory=lambda: array.array("q"))
    example: tuple[str, TokenizedRow] | None = None

    @property
    def rows_used(self) -> int:
        """Rows that are trained on."""
        return len(self.lengths)

    @property
    def rows_dropped(self) -> int:
        """Rows left out, for whatever reason."""
        return self.invalid.rows + self.overlong.rows + self.nothing_to_learn.rows

    @property
    def tokens(self) -> int:
        """Tokens of the rows that are used."""
        return sum(self.lengths)

    def add_invalid(self, problem: RowProblem) -> None:
        """Count a row that cannot be used."""
        self.invalid.add(problem.sentence)

    def add_used(self, where: str, row: TokenizedRow) -> None:
        """Count a row that is trained on."""
        self.lengths.append(len(row.input_ids))
        self.learned_tokens += row.learned_count
        if self.example is None:
            self.example = (where, row)


def build_report(tally: Tally, tokenizer: ModelTokenizer, mask_source: str) -> DataReport:
    """Put the counts into the report."""
    assert tally.example is not None, "a data set without rows was refused before"
    return DataReport(
        sources=tuple(tally.sources),
        rows_read=tally.rows_read,
        rows_used=tally.rows_used,
        rows_dropped=tally.rows_dropped,
        invalid=tally.invalid.report(),
        overlong=tally.overlong.report(),
        nothing_to_learn=tally.nothing_to_learn.report(),
        rows_truncated=tally.rows_truncated,
        tokens=tally.tokens,
        learned_tokens=tally.learned_tokens,
        lengths=build_length_report(tally.lengths),
        mask_source=mask_source,
        example=_example(*tally.example, tokenizer),
    )


def build_length_report(lengths: array.array[int]) -> LengthReport:
    """Percentiles by nearest rank, and a histogram with buckets that double."""
    ordered = sorted(lengths)
    ranks = {percent: -(-len(ordered) * percent // 100) for percent in _PERCENTILES}
    return LengthReport(
        longest=ordered[-1],
        percentiles={f"p{percent}": ordered[rank - 1] for percent, rank in ranks.items()},
        histogram=tuple(
            LengthBucket(up_to_tokens=up_to, rows=len(list(rows)))
            for up_to, rows in groupby(ordered, _bucket)
        ),
    )


def _bucket(length: int) -> int:
    return 1 << max(length - 1, 0).bit_length()


def _example(where: str, row: TokenizedRow, tokenizer: ModelTokenizer) -> Example:
    return Example(where=where, tokens=len(row.input_ids), segments=tuple(_segments(row, tokenizer)))


def _segments(row: TokenizedRow, tokenizer: ModelTokenizer) -> Iterator[Segment]:
    shown = list(zip(row.input_ids, row.learned, strict=True))[:_EXAMPLE_TOKENS]
    for learned, tokens in groupby(shown, key=lambda pair: pair[1]):
        yield Segment(text=tokenizer.decode([token for token, _ in tokens]), learned=bool(learned))


def describe_example(example: Example) -> str:
    """The example on one line for the log, learned parts between « and »."""
    parts = (f"«{segment.text}»" if segment.learned else segment.text for segment in example.segments)
    return "".join(parts).replace("\n", "⏎")
