"""The report in a terminal: what was found, what was left out and where, one row as the model sees it."""

from __future__ import annotations

from collections.abc import Iterator

from finetune_trainer.data.report.model import DataReport, DroppedRows, Sample, SourceReport
from finetune_trainer.data.report.sentences import (
    REASON_TITLES,
    as_sentence,
    describe_change,
    describe_summary,
    plural,
)

_EXAMPLES_SHOWN = 3
# Without a shape of their own, and harmless; a joiner holds emoji together.
_ALLOWED = "\n\t\u200d"
_LEARNED_COLOUR = ("\x1b[32m", "\x1b[39m")
_LEARNED_MARKS = ("«", "»")


def render_text(report: DataReport, *, colour: bool) -> str:
    """The report as lines. Learned tokens are green in colour, else between « and »."""
    parts = [list(part(report)) for part in (_first_lines, _sources, _dropped, _changed, _about_sample)]
    told = "\n".join(_harmless("\n".join(lines)) + "\n" for lines in parts if lines)
    return told + "".join(f"{line}\n" for line in _sample(report, colour))


def _first_lines(report: DataReport) -> Iterator[str]:
    yield report.refusal or describe_summary(report)
    for warning in report.warnings:
        yield f"! {warning}"


def _sources(report: DataReport) -> Iterator[str]:
    for source in report.sources:
        yield f"{source.source}: {source.format}, {_rows(source)}"
        yield f"  {as_sentence(source.explanation)}"
        for note in source.notes:
            yield f"  {as_sentence(note)}"


def _rows(source: SourceReport) -> str:
    return f"{source.rows_used:,} of {plural(source.rows_read, 'row')} used"


def _dropped(report: DataReport) -> Iterator[str]:
    if report.dropped:
        yield "Left out"
    for dropped in sorted(report.dropped, key=lambda each: -each.rows):
        yield f"  {REASON_TITLES[dropped.reason]}: {plural(dropped.rows, 'row')}"
        yield from _examples(dropped)


def _examples(dropped: DroppedRows) -> Iterator[str]:
    for example in dropped.first[:_EXAMPLES_SHOWN]:
        column = f", column {example.column}" if example.column else ""
        yield f"    {example.where}{column}: {example.why}"
        if example.excerpt:
            yield f"      {example.excerpt}"
    if (more := dropped.rows - _EXAMPLES_SHOWN) > 0:
        yield f"    and {more:,} more"


def _changed(report: DataReport) -> Iterator[str]:
    if report.changed:
        yield "Changed"
    for changed in report.changed:
        where = f"{plural(changed.occurrences, 'place')} in {plural(changed.rows, 'row')}"
        yield f"  {describe_change(changed.step)}: {where}"


def _about_sample(report: DataReport) -> Iterator[str]:
    for sample in report.samples[:1]:
        learned = f", {sample.learned_tokens:,} of them learned" if report.learned_tokens else ""
        label = f", label {sample.label}" if sample.label is not None else ""
        yield f"{sample.where}: {plural(sample.tokens, 'token')}{learned}{label}"
        if report.learned_tokens:
            yield f"Learned tokens: {as_sentence(report.mask_source)}"


def _sample(report: DataReport, colour: bool) -> Iterator[str]:
    for sample in report.samples[:1]:
        yield ""
        yield from (f"  {line}" for line in _sample_text(sample, colour).rstrip("\n").split("\n"))
        if sample.shown_tokens < sample.tokens:
            yield f"  and {plural(sample.tokens - sample.shown_tokens, 'more token')}"


def _sample_text(sample: Sample, colour: bool) -> str:
    begin, end = _LEARNED_COLOUR if colour else _LEARNED_MARKS
    return "".join(
        f"{begin}{_harmless(segment.text)}{end}" if segment.learned else _harmless(segment.text)
        for segment in sample.segments
    )


def _harmless(text: str) -> str:
    """Data must not steer the terminal that shows them."""
    return "".join(each if each.isprintable() or each in _ALLOWED else "\ufffd" for each in text)
