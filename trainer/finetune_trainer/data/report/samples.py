"""Which rows the report shows, and how: as the model sees them, learned tokens apart from the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from finetune_trainer.data.prepared import TokenizedRow
from finetune_trainer.data.report.model import Sample, Segment
from finetune_trainer.data.rows import Place, Split

SAMPLES_SHOWN = 5
_SHOWN_TOKENS = 1024

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class SampleRow:
    """A row that may be shown. `label` is its class, for task SequenceClassification."""

    place: Place
    split: Split
    row: TokenizedRow
    label: str | None = None


def sample_positions(rows: int, wanted: int = SAMPLES_SHOWN) -> tuple[int, ...]:
    """Numbers of `wanted` of the rows, spread over all of them: the first, the last and equal distances between."""
    if rows <= wanted:
        return tuple(range(rows))
    return tuple(number * (rows - 1) // (wanted - 1) for number in range(wanted))


def build_sample(sample: SampleRow, decode: Decode) -> Sample:
    """Render one row."""
    shown = min(len(sample.row.input_ids), _SHOWN_TOKENS)
    return Sample(
        where=str(sample.place),
        split=sample.split,
        tokens=len(sample.row.input_ids),
        shown_tokens=shown,
        learned_tokens=sum(sample.row.learned),
        label=sample.label,
        segments=tuple(_segments(sample.row, shown, decode)),
    )


def _segments(row: TokenizedRow, shown: int, decode: Decode) -> Iterator[Segment]:
    end = 0
    before = ""
    for learned, group in groupby(row.learned[:shown]):
        start, end = end, end + len(list(group))
        # SentencePiece drops the first space of whatever it decodes, so a segment's text is what it adds to the
        # text before it; unless a character's bytes are cut in two, and the segment stands for itself.
        whole = decode(row.input_ids[:end])
        text = whole.removeprefix(before) if whole.startswith(before) else decode(row.input_ids[start:end])
        yield Segment(text=text, learned=bool(learned))
        before = whole


def describe_sample(sample: Sample) -> str:
    """The row on one line for the log, learned parts between « and »."""
    parts = (f"«{segment.text}»" if segment.learned else segment.text for segment in sample.segments)
    return "".join(parts).replace("\n", "⏎")
