"""Shows the report as one page that people like to read: self-contained, without scripts, light and dark.

Everything from the data is escaped, and the page's own policy allows nothing but its one style sheet: no script runs
and nothing is fetched, whatever a row holds.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from finetune_trainer.data.report import charts, sentences
from finetune_trainer.data.report.model import DataReport
from finetune_trainer.data.rows import DropReason

_FOLDER = Path(__file__).parent
_TEMPLATE_NAME = "page.html.jinja"
_STYLE_NAME = "page.css"
_LABELS_SHOWN = 60
# Longer notes are sentences of their own.
_NOTE_OF_A_TAG = 32


def render_html(report: DataReport, title: str) -> str:
    """The report as a page. `title` is the job's name, or the file's."""
    page = _environment().get_template(_TEMPLATE_NAME)
    style = (_FOLDER / _STYLE_NAME).read_text(encoding="utf-8")
    return page.render(
        report=report,
        title=title,
        style=Markup(style),  # noqa: S704 (our own file, not the data's)
        style_digest=_digest(style),
        summary=sentences.describe_summary(report),
        row_shares=charts.build_row_shares(report.rows_by_split, report.rows_dropped),
        histogram=charts.build_histogram(report.lengths),
        opened=_reason_shown_open(report),
        labels=charts.build_label_bars(report.labels)[:_LABELS_SHOWN],
        labels_hidden=max(len(report.labels) - _LABELS_SHOWN, 0),
        NOTE_OF_A_TAG=_NOTE_OF_A_TAG,
        WIDTH=charts.WIDTH,
        HEIGHT=charts.HEIGHT,
    )


def _reason_shown_open(report: DataReport) -> DropReason | None:
    """Invalid rows are what people must mend; without any, the largest number is what they ask about."""
    if not report.dropped:
        return None
    return max(
        report.dropped, key=lambda dropped: (dropped.reason is DropReason.INVALID, dropped.rows)
    ).reason


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=lambda value: f"{value:,}",
        plural=sentences.plural,
        short=sentences.short_number,
        percent=sentences.percent,
        sentence=sentences.as_sentence,
        reason_title=lambda reason: sentences.REASON_TITLES[reason],
        reason_remark=lambda reason: sentences.REASON_REMARKS[reason],
        step_title=sentences.describe_change,
    )
    environment.globals.update(shares=charts.build_shares)
    return environment


def _digest(style: str) -> str:
    # The source expression of CSP level 3: https://www.w3.org/TR/CSP3/#grammardef-hash-source
    return f"sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}"
