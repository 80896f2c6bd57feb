"""What the data report holds: `data-report.json` for programs, from which the page for people is made.

Equal data and settings give equal bytes; only `run` belongs to one job and not to the data.
"""

from __future__ import annotations

from typing import Literal

from finetune_api.base import ApiModel
from finetune_trainer.data.rows import DropReason, Split


class SourceReport(ApiModel):
    """One source of rows: how it was read and why so."""

    source: str
    split: Split
    format: str
    explanation: str
    notes: tuple[str, ...]
    # The first names; file_count has them all. A source that is written into the job has none.
    files: tuple[str, ...]
    file_count: int
    rows_read: int
    rows_used: int
    weight: float


class RowsBySplit(ApiModel):
    """Rows that are used, copies made by augmentation included."""

    train: int
    validation: int
    test: int


class DroppedExample(ApiModel):
    """One row that was left out."""

    where: str
    column: str | None
    why: str
    # The beginning of the text after cleaning and redaction; None where it may not be shown.
    excerpt: str | None


class DroppedRows(ApiModel):
    """Rows left out for one reason: how many, and the first of them."""

    reason: DropReason
    rows: int
    # Of all rows read.
    share: float
    first: tuple[DroppedExample, ...]


class ChangedRows(ApiModel):
    """What one step of the cleaning changed in rows that go on."""

    step: str
    rows: int
    occurrences: int


class DuplicatePair(ApiModel):
    """A row and the earlier one that it repeats."""

    where: str
    repeats: str
    similarity: float


class DuplicateReport(ApiModel):
    """How rows that say the same were found; `pairs` are the first of them."""

    method: str
    threshold: float | None
    exact: int
    near: int
    pairs: tuple[DuplicatePair, ...]


class LabelBalance(ApiModel):
    """One class: its rows before and after, and how often each of its rows is seen in an epoch."""

    label: str
    rows_read: int
    rows_used: int
    weight: float


class LengthBucket(ApiModel):
    """Rows of at most `up_to_tokens` tokens that are in no smaller bucket."""

    up_to_tokens: int
    rows: int


class LengthReport(ApiModel):
    """How long the rows are that are trained on, in tokens. Buckets are equally wide and leave no gap."""

    shortest: int
    longest: int
    mean: float
    percentiles: dict[str, int]
    histogram: tuple[LengthBucket, ...]


class Segment(ApiModel):
    """Consecutive tokens of a sample that are all learned, or all not."""

    text: str
    learned: bool


class Sample(ApiModel):
    """One row as the model sees it; a long one is cut after `shown_tokens`."""

    where: str
    split: Split
    tokens: int
    shown_tokens: int
    learned_tokens: int
    label: str | None
    segments: tuple[Segment, ...]


class RunForecast(ApiModel):
    """What these rows mean for one job. Shares are of computed tokens that are padding."""

    global_batch_size: int
    micro_batch_tokens: int | None
    steps_per_epoch: int
    total_steps: int
    epochs: float
    padded_share_unpacked: float
    padded_share_packed: float


class DataReport(ApiModel):
    """`data-report.json`. Tokens and lengths are those of the training rows."""

    schema_version: Literal[2] = 2
    digest: str
    sources: tuple[SourceReport, ...]
    # Every row that was read is used or dropped.
    rows_read: int
    rows_used: int
    rows_dropped: int
    rows_by_split: RowsBySplit
    dropped: tuple[DroppedRows, ...]
    changed: tuple[ChangedRows, ...]
    rows_truncated: int
    duplicates: DuplicateReport | None
    leakage: tuple[DuplicatePair, ...]
    labels: tuple[LabelBalance, ...]
    augmented_rows: int
    tokens: int
    learned_tokens: int
    mask_coverage: float
    lengths: LengthReport
    samples: tuple[Sample, ...]
    mask_source: str
    template_origin: str
    warnings: tuple[str, ...]
    run: RunForecast | None = None
    # Why these data are not trained on; None where they are.
    refusal: str | None = None
