"""The data report: counted while rows pass (tally), built once, written as JSON and shown as a page (html)."""

from __future__ import annotations

from finetune_trainer.data.report.building import (
    ReportFacts,
    SourceFacts,
    add_forecast,
    add_refusal,
    add_warnings,
    build_report,
)
from finetune_trainer.data.report.forecast import forecast_run
from finetune_trainer.data.report.html import render_html
from finetune_trainer.data.report.lengths import build_length_report
from finetune_trainer.data.report.model import (
    ChangedRows,
    DataReport,
    DroppedExample,
    DroppedRows,
    DuplicatePair,
    DuplicateReport,
    LabelBalance,
    LengthBucket,
    LengthReport,
    RowsBySplit,
    RunForecast,
    Sample,
    Segment,
    SourceReport,
)
from finetune_trainer.data.report.samples import SampleRow, describe_sample, sample_positions
from finetune_trainer.data.report.sentences import count_reason, describe_summary
from finetune_trainer.data.report.tally import Tally, cut_excerpt

__all__ = [
    "ChangedRows",
    "DataReport",
    "DroppedExample",
    "DroppedRows",
    "DuplicatePair",
    "DuplicateReport",
    "LabelBalance",
    "LengthBucket",
    "LengthReport",
    "ReportFacts",
    "RowsBySplit",
    "RunForecast",
    "Sample",
    "SampleRow",
    "Segment",
    "SourceFacts",
    "SourceReport",
    "Tally",
    "add_forecast",
    "add_refusal",
    "add_warnings",
    "build_length_report",
    "build_report",
    "count_reason",
    "cut_excerpt",
    "describe_sample",
    "describe_summary",
    "forecast_run",
    "render_html",
    "sample_positions",
]
