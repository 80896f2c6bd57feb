"""What happens to one row by itself: read as its format says, cleaned, rendered, tokenised, measured.

Runs in as many processes as the pod has CPUs, a chunk of rows at a time; whatever depends on other rows comes later.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from finetune_api.spec import Augmentation, Duplicates, Overlong, Preparation
from finetune_trainer.data import spool
from finetune_trainer.data.cleaning import Cleaner
from finetune_trainer.data.encoding import EncoderSettings, ExampleEncoder
from finetune_trainer.data.formats import FormatContext, RowFormat, read_example
from finetune_trainer.data.prepared import TokenizedRow, tokenized_columns
from finetune_trainer.data.report import Tally
from finetune_trainer.data.rows import (
    DropReason,
    Example,
    RawRow,
    RowProblem,
    Split,
    texts_of,
)
from finetune_trainer.data.similarity import comparable_text, exact_key, text_key

if TYPE_CHECKING:
    from finetune_trainer.data.augmentation import Augmenter

# What near duplicates are looked for in, of texts that are longer.
_COMPARED_CHARACTERS = 20_000
# Enough for the excerpt of a row that is left out.
_EXCERPT_SOURCE = 480


@dataclass(frozen=True)
class WorkerSettings:
    """Everything a worker process must know; picklable."""

    context: FormatContext
    preparation: Preparation
    encoder: EncoderSettings
    # Of each source, in order.
    formats: tuple[RowFormat | None, ...]
    splits: tuple[Split, ...]
    # Of each file, as rows name it.
    files: tuple[str, ...]
    # The longest row in tokens.
    max_length: int
    # Groups of words that mean the same, for augmentation.
    words: tuple[tuple[str, ...], ...] = ()
    seed: int = 0
    # Whether rows are compared: for duplicates, leakage, or a validation part that repeats none of the rest.
    compares_rows: bool = True


@dataclass(frozen=True)
class Chunk:
    """Rows of one source, in order."""

    source: int
    rows: tuple[RawRow | RowProblem, ...]


@dataclass(frozen=True)
class WorkedChunk:
    """What became of a chunk: rows for the spool, and what was counted."""

    encoded: bytes
    tally: Tally


@dataclass(frozen=True)
class _Prepared:
    """An example that may be used, and which copy of its row it is."""

    example: Example
    copy: int


class RowWorker:
    """Works on chunks. One a process."""

    def __init__(self, settings: WorkerSettings, encoder: ExampleEncoder) -> None:
        self._settings = settings
        self._cleaner = Cleaner.build(settings.preparation)
        self._encoder = encoder
        self._augmenter = _build_augmenter(settings)
        self._file_numbers = {file: number for number, file in enumerate(settings.files)}
        self._label_numbers = {label: number for number, label in enumerate(settings.context.labels)}

    def work(self, chunk: Chunk) -> WorkedChunk:
        """Prepare a chunk's rows."""
        tally = Tally()
        prepared = list(self._examples(chunk, tally))
        encoded = self._encoder.encode([each.example for each in prepared])
        fitting = list(self._fitting(prepared, encoded, tally))
        return WorkedChunk(self._batch(chunk.source, fitting), tally)

    def _examples(self, chunk: Chunk, tally: Tally) -> Iterator[_Prepared]:
        is_training = self._settings.splits[chunk.source] is Split.TRAIN
        for row in chunk.rows:
            tally.read(chunk.source)
            example = self._cleaned(self._read(chunk.source, row), tally)
            if example is not None:
                yield _Prepared(example, copy=0)
                if self._augmenter is not None and is_training:
                    copies = enumerate(self._augmenter.copies(example), start=1)
                    yield from (_Prepared(changed, number) for number, changed in copies)

    def _read(self, source: int, row: RawRow | RowProblem) -> Example | RowProblem:
        if isinstance(row, RowProblem):
            return row
        row_format = self._settings.formats[source]
        if row_format is None:
            return RowProblem(row.place, "the row is no object; it must be one with named columns")
        return read_example(row, row_format, self._settings.context)

    def _cleaned(self, found: Example | RowProblem, tally: Tally) -> Example | None:
        if isinstance(found, RowProblem):
            self._drop_invalid(found, tally)
            return None
        cleaned = self._cleaner.clean(found)
        for step, occurrences in cleaned.changes.items():
            tally.change(step, occurrences)
        if cleaned.drop is not None:
            tally.drop(cleaned.drop, found.place, cleaned.why, excerpt=cleaned.excerpt)
        return cleaned.example

    def _drop_invalid(self, problem: RowProblem, tally: Tally) -> None:
        redaction = self._cleaner.redaction
        # A reason names roles and labels, and so what somebody wrote.
        reason = redaction.redact_reason(problem.reason) if redaction else problem.reason
        tally.drop(DropReason.INVALID, problem.place, reason, column=problem.column)

    def _fitting(
        self, prepared: Sequence[_Prepared], encoded: Sequence[TokenizedRow | RowProblem], tally: Tally
    ) -> Iterator[tuple[_Prepared, TokenizedRow]]:
        is_original_in = False
        for each, row in zip(prepared, encoded, strict=True):
            # What is wrong with a copy alone is no fault of the data: it is left out, and not counted.
            counted = tally if each.copy == 0 else Tally()
            fitting = self._fit(each.example, row, counted)
            is_original_in = fitting is not None if each.copy == 0 else is_original_in
            if fitting is not None and is_original_in:
                yield each, fitting

    def _fit(self, example: Example, row: TokenizedRow | RowProblem, tally: Tally) -> TokenizedRow | None:
        if isinstance(row, RowProblem):
            self._drop_invalid(row, tally)
            return None
        preparation, limit, length = self._settings.preparation, self._settings.max_length, len(row.input_ids)
        if length < (preparation.min_length or 0):
            why = f"{length} tokens, fewer than minLength {preparation.min_length}"
            _drop(tally, DropReason.TOO_SHORT, example, why)
            return None
        if length > limit and preparation.overlong is Overlong.DROP:
            _drop(tally, DropReason.TOO_LONG, example, f"{length} tokens, more than maxLength {limit}")
            return None
        is_cut = length > limit
        if is_cut:
            row = TokenizedRow(row.input_ids[:limit], row.learned[:limit], row.label)
        # The first token is never predicted, so learning it alone teaches nothing.
        if row.label is None and not any(row.learned[1:]):
            why = f"no learned token among its first {len(row.input_ids)}"
            _drop(tally, DropReason.NOTHING_TO_LEARN, example, why)
            return None
        if is_cut:
            tally.truncate()
        return row

    def _batch(self, source: int, rows: Sequence[tuple[_Prepared, TokenizedRow]]) -> bytes:
        examples = [each.example for each, _ in rows]
        places = [example.place for example in examples]
        tokenized = [row for _, row in rows]
        input_ids, learned, _ = tokenized_columns(tokenized)
        count = len(rows)
        return spool.encode_batch(
            [
                pa.array(np.full(count, source, np.int16)),
                pa.array([self._file_numbers[place.file] for place in places], pa.int32()),
                pa.array([place.number for place in places], pa.int64()),
                pa.array([place.unit == "line" for place in places], pa.bool_()),
                pa.array([each.copy for each, _ in rows], pa.int8()),
                pa.array([self._label_number(example) for example in examples], pa.int32()),
                pa.array([len(row.input_ids) for row in tokenized], pa.int32()),
                pa.array([row.learned_count for row in tokenized], pa.int32()),
                pa.array([self._key(example) for example in examples], pa.binary(spool.KEY_BYTES)),
                pa.array([_text_key(example) for example in examples], pa.binary(spool.KEY_BYTES)),
                input_ids,
                learned,
                *self._near_columns(examples),
                pa.array([_beginning(example) for example in examples], pa.string()),
            ]
        )

    def _key(self, example: Example) -> bytes:
        return exact_key(example) if self._settings.compares_rows else bytes(spool.KEY_BYTES)

    def _label_number(self, example: Example) -> int:
        return -1 if example.label is None else self._label_numbers.get(example.label, -1)

    def _near_columns(self, examples: Sequence[Example]) -> tuple[pa.Array, pa.Array]:
        duplicates = self._settings.preparation.duplicates
        nothing: list[None] = [None] * len(examples)
        signatures: Sequence[bytes | None] = nothing
        texts: Sequence[str | None] = nothing
        if duplicates in (Duplicates.TFIDF, Duplicates.MIN_HASH):
            texts = [comparable_text(example)[:_COMPARED_CHARACTERS] for example in examples]
        if duplicates is Duplicates.MIN_HASH:
            from finetune_trainer.data.similarity.minhash import minhash_signature

            signatures, texts = [minhash_signature(text) for text in texts if text is not None], nothing
        return pa.array(signatures, pa.binary()), pa.array(texts, pa.large_string())


def _text_key(example: Example) -> bytes | None:
    return None if example.label is None else text_key(example)


def _beginning(example: Example) -> str:
    parts, length = [], 0
    for text in texts_of(example):
        parts.append(text[:_EXCERPT_SOURCE])
        length += len(text)
        if length >= _EXCERPT_SOURCE:
            break
    return "\n".join(parts)[:_EXCERPT_SOURCE]


def _drop(tally: Tally, reason: DropReason, example: Example, why: str) -> None:
    tally.drop(reason, example.place, why, excerpt=_beginning(example))


def _build_augmenter(settings: WorkerSettings) -> Augmenter | None:
    augment: Augmentation | None = settings.preparation.augment
    if augment is None:
        return None
    from finetune_trainer.data.augmentation import Augmenter

    return Augmenter.build(augment, settings.words, settings.seed)
