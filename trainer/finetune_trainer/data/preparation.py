"""Rows through the whole preparation: read → format → chat template → tokens → length, each row used or counted."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from finetune_api.spec import DataFormat, Dataset, InvalidRows, Overlong
from finetune_trainer.data.chat_template import TemplateRefusal
from finetune_trainer.data.formats import Conversation, RowFormat, as_conversation, decide_format
from finetune_trainer.data.masks import LearnedText, RowRenderer
from finetune_trainer.data.prepared import TokenizedRow
from finetune_trainer.data.report import SourceReport, Tally
from finetune_trainer.data.sources import LocalSource, RawRow, RowProblem, read_rows
from finetune_trainer.data.tokenization import ModelTokenizer
from finetune_trainer.errors import DataError

logger = logging.getLogger(__name__)

_BATCH_ROWS = 512
_PROBLEMS_SHOWN = 5


@dataclass(frozen=True)
class _RenderedRow:
    where: str
    text: LearnedText


def tokenized_rows(
    sources: Iterable[LocalSource],
    dataset: Dataset,
    renderer: RowRenderer,
    tokenizer: ModelTokenizer,
    tally: Tally,
) -> Iterator[TokenizedRow]:
    """Yield the rows that are trained on, in the order of the sources; everything else is counted in `tally`.

    Raises DataError at the end of the data, when all problems are known: for rows that cannot be used (unless
    `invalidRows: Drop`), and when no row is left.
    """
    rendered = _rendered_rows(sources, dataset, renderer, tally)
    while batch := list(islice(rendered, _BATCH_ROWS)):
        encoded = tokenizer.encode([row.text for row in batch])
        for row, tokens in zip(batch, encoded, strict=True):
            if (fitting := _fitting(row.where, tokens, dataset, tally)) is not None:
                tally.add_used(row.where, fitting)
                yield fitting
    _refuse_invalid_rows(dataset, tally)
    _refuse_empty(dataset, tally)


def _rendered_rows(
    sources: Iterable[LocalSource], dataset: Dataset, renderer: RowRenderer, tally: Tally
) -> Iterator[_RenderedRow]:
    for source in sources:
        for conversation in _conversations(source, dataset.system_prompt, tally):
            try:
                yield _RenderedRow(conversation.where, renderer.render(conversation))
            except TemplateRefusal as refusal:
                tally.add_invalid(
                    RowProblem(f"{conversation.where}: the chat template refuses it ({refusal})")
                )


def _conversations(source: LocalSource, system_prompt: str | None, tally: Tally) -> Iterator[Conversation]:
    row_format: RowFormat | None = None
    rows_before = tally.rows_read
    for row in read_rows(source):
        tally.rows_read += 1
        if isinstance(row, RawRow) and isinstance(row.value, dict) and row_format is None:
            row_format = decide_format(source.settings, source.label, row.value)
            logger.info("format of %s", row_format.explanation)
        # Before the first object nothing is decided; such a row is refused for what it is, whatever the format.
        result = (
            row
            if isinstance(row, RowProblem)
            else as_conversation(row, row_format or _ANY_FORMAT, system_prompt)
        )
        if isinstance(result, Conversation):
            yield result
        else:
            tally.add_invalid(result)
    _finish_source(source, row_format, tally, tally.rows_read - rows_before)


_ANY_FORMAT = RowFormat(DataFormat.MESSAGES, None, "")


def _finish_source(source: LocalSource, row_format: RowFormat | None, tally: Tally, rows: int) -> None:
    if rows == 0:
        raise DataError(f"{source.label} has no rows. Put rows into it, or remove it from dataset.train.")
    explanation = row_format.explanation if row_format else f"{source.label}: no row could be read"
    tally.sources.append(SourceReport(source=source.label, format=explanation, rows_read=rows))


def _fitting(where: str, row: TokenizedRow, dataset: Dataset, tally: Tally) -> TokenizedRow | None:
    limit = dataset.preparation.max_length
    length = len(row.input_ids)
    if length > limit and dataset.preparation.overlong is Overlong.DROP:
        tally.overlong.add(f"{where}: {length} tokens")
        return None
    if length > limit:
        row = TokenizedRow(row.input_ids[:limit], row.learned[:limit])
        tally.rows_truncated += 1
    # The first token is never predicted, so learning it alone teaches nothing.
    if not any(row.learned[1:]):
        tally.nothing_to_learn.add(f"{where}: no learned token among its first {len(row.input_ids)}")
        return None
    return row


def _refuse_invalid_rows(dataset: Dataset, tally: Tally) -> None:
    if tally.invalid.rows and dataset.preparation.invalid_rows is InvalidRows.FAIL:
        shown = "; ".join(tally.invalid.first[:_PROBLEMS_SHOWN])
        more = (
            f" (the first {_PROBLEMS_SHOWN} of {tally.invalid.rows})"
            if tally.invalid.rows > _PROBLEMS_SHOWN
            else ""
        )
        raise DataError(
            f"{tally.invalid.rows} of {tally.rows_read} rows cannot be used{more}: {shown}. "
            "Correct them, or set dataset.preparation.invalidRows: Drop to leave such rows out."
        )


def _refuse_empty(dataset: Dataset, tally: Tally) -> None:
    if tally.rows_used:
        return
    reasons = {
        "invalid": tally.invalid,
        f"longer than maxLength {dataset.preparation.max_length}": tally.overlong,
        "without anything to learn": tally.nothing_to_learn,
    }
    counts = ", ".join(f"{drops.rows} {name}" for name, drops in reasons.items() if drops.rows)
    first = next((drops.first[0] for drops in reasons.values() if drops.rows), "")
    raise DataError(
        f"No row of {tally.rows_read} is left to train on: {counts} (the first: {first}). "
        "Correct the rows, or raise dataset.preparation.maxLength."
    )
