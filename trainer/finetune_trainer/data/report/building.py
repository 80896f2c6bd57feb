"""Puts what was counted and decided into the report: pure, the last thing that prepare does with the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from finetune_trainer.data.report.lengths import Lengths, build_length_report
from finetune_trainer.data.report.model import (
    DataReport,
    DuplicatePair,
    DuplicateReport,
    LabelBalance,
    RowsBySplit,
    RunForecast,
    SourceReport,
)
from finetune_trainer.data.report.samples import Decode, SampleRow, build_sample, sample_positions
from finetune_trainer.data.report.tally import EXAMPLES_KEPT, Tally
from finetune_trainer.data.rows import Split

_FILES_NAMED = 20


@dataclass(frozen=True)
class SourceFacts:
    """One source, in the order of the tally's source indices. `rows_used` counts its rows, not their copies."""

    label: str
    split: Split
    format: str
    explanation: str
    rows_used: int
    notes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    weight: float = 1.0


@dataclass(frozen=True)
class ReportFacts:
    """Everything the report needs.

    `lengths` has the tokens of each row of a split, copies made by augmentation included; `learned_tokens` are those
    of the training split. `samples` are candidates: five are chosen, spread over them.
    """

    digest: str
    tally: Tally
    sources: Sequence[SourceFacts]
    lengths: Mapping[Split, Lengths]
    learned_tokens: int
    samples: Sequence[SampleRow]
    decode: Decode
    mask_source: str
    template_origin: str
    labels: tuple[LabelBalance, ...] = ()
    duplicates: DuplicateReport | None = None
    leakage: tuple[DuplicatePair, ...] = ()
    augmented_rows: int = 0
    warnings: tuple[str, ...] = field(default=())


def build_report(facts: ReportFacts) -> DataReport:
    """Build the report of the data; `add_forecast` adds what they mean for one job."""
    tally, training = facts.tally, facts.lengths[Split.TRAIN]
    sources = tuple(_source(number, source, tally) for number, source in enumerate(facts.sources))
    rows_used = sum(source.rows_used for source in sources)
    assert tally.rows_read == rows_used + tally.rows_dropped, (
        f"{tally.rows_read} rows read, {rows_used} used, {tally.rows_dropped} dropped"
    )
    tokens = int(np.sum(training))
    return DataReport(
        digest=facts.digest,
        sources=sources,
        rows_read=tally.rows_read,
        rows_used=rows_used,
        rows_dropped=tally.rows_dropped,
        rows_by_split=_rows_by_split(facts.lengths),
        dropped=tally.dropped(),
        changed=tally.changed(),
        rows_truncated=tally.rows_truncated,
        duplicates=_with_first_pairs(facts.duplicates),
        leakage=facts.leakage[:EXAMPLES_KEPT],
        labels=facts.labels,
        augmented_rows=facts.augmented_rows,
        tokens=tokens,
        learned_tokens=facts.learned_tokens,
        mask_coverage=round(facts.learned_tokens / max(tokens, 1), 6),
        lengths=build_length_report(training),
        samples=tuple(
            build_sample(facts.samples[position], facts.decode)
            for position in sample_positions(len(facts.samples))
        ),
        mask_source=facts.mask_source,
        template_origin=facts.template_origin,
        warnings=facts.warnings,
    )


def add_warnings(report: DataReport, warnings: Sequence[str]) -> DataReport:
    """The report with what one job should be told besides."""
    return report.model_copy(update={"warnings": (*report.warnings, *warnings)})


def add_forecast(report: DataReport, forecast: RunForecast) -> DataReport:
    """The report as one job's folder has it."""
    return report.model_copy(update={"run": forecast})


def add_refusal(report: DataReport, sentence: str) -> DataReport:
    """The report of data that are refused, and why."""
    return report.model_copy(update={"refusal": sentence})


def _source(number: int, source: SourceFacts, tally: Tally) -> SourceReport:
    return SourceReport(
        source=source.label,
        split=source.split,
        format=source.format,
        # As it stands in the log it begins with the source, which the report names above it.
        explanation=source.explanation.removeprefix(f"{source.label}: "),
        notes=source.notes,
        files=source.files[:_FILES_NAMED],
        file_count=len(source.files),
        rows_read=tally.rows_read_by_source[number],
        rows_used=source.rows_used,
        weight=source.weight,
    )


def _rows_by_split(lengths: Mapping[Split, Lengths]) -> RowsBySplit:
    counts = {split: len(lengths.get(split, ())) for split in Split}
    return RowsBySplit(
        train=counts[Split.TRAIN], validation=counts[Split.VALIDATION], test=counts[Split.TEST]
    )


def _with_first_pairs(duplicates: DuplicateReport | None) -> DuplicateReport | None:
    return duplicates and duplicates.model_copy(update={"pairs": duplicates.pairs[:EXAMPLES_KEPT]})
