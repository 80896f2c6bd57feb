"""From fetched sources to the prepared data set: the story of data preparation, top to bottom.

First each row by itself, in several processes; then the decisions about rows as a whole; then the files. Memory does
not grow with the data but for some 50 bytes a row. A data set that cannot be used ends in DataRefused with its report.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from finetune_api.spec import DataFormat, Dataset, Duplicates, Task
from finetune_trainer.data.batches import order_rows
from finetune_trainer.data.cleaning import Cleaner
from finetune_trainer.data.encoding import ExampleEncoder
from finetune_trainer.data.formats import FormatContext, RowFormat, decide_format, label_of
from finetune_trainer.data.near_duplicates import find_near_repeats
from finetune_trainer.data.outcome import Outcome
from finetune_trainer.data.prepared import REPORT_FILE_NAME
from finetune_trainer.data.refusals import refuse_data
from finetune_trainer.data.report import DataReport, Tally, add_refusal
from finetune_trainer.data.row_worker import Chunk, WorkedChunk, WorkerSettings
from finetune_trainer.data.rows import RawRow, RowProblem, Split
from finetune_trainer.data.selection import Rules, choose_rows
from finetune_trainer.data.sources import LocalSource, read_rows
from finetune_trainer.data.spool import Spool
from finetune_trainer.data.workers import CHUNK_CHARACTERS, CHUNK_ROWS, work_on
from finetune_trainer.errors import DataError

logger = logging.getLogger(__name__)

_ROWS_LOOKED_AT = 32
# Among them the first that are objects are looked for.
_ROWS_SEARCHED = 1000
_SECONDS_BETWEEN_LINES = 10.0
# As many as spec.labels may have.
_MOST_LABELS = 1024


@dataclass(frozen=True)
class DataRequest:
    """What is prepared, and how."""

    dataset: Dataset
    task: Task
    # spec.labels; empty for CausalLM.
    labels: tuple[str, ...]
    seed: int
    sources: tuple[LocalSource, ...]
    encoder: ExampleEncoder
    max_length: int
    words: tuple[tuple[str, ...], ...]
    processes: int


@dataclass(frozen=True)
class PreparedData:
    """The finished files' facts. The files stand in the folder that was given."""

    report: DataReport
    rows_per_epoch: int
    labels: tuple[str, ...]


class DataRefused(DataError):
    """The data cannot be used. The report says more than the sentence has room for."""

    def __init__(self, error: DataError, report: DataReport) -> None:
        super().__init__(error.message)
        self.report = add_refusal(report, error.message)


def prepare_data(request: DataRequest, digest: str, folder: Path, work: Path) -> PreparedData:
    """Prepare the data: write the splits' files, a sample and the report into `folder`; `work` is for what passes.

    Raises DataRefused, and DataError for a file that cannot be read at all.
    """
    formats = decide_formats(request.sources, _reason_redactor(request.dataset))
    labels = request.labels or collect_labels(request.sources, formats)
    encoder = request.encoder.with_labels(tuple(labels))
    settings = _worker_settings(request, formats, encoder)
    tally, spool = Tally(), Spool(work / "spool.arrow")
    worked_chunks = work_on(chunks_of(request.sources), settings, encoder, request.processes)
    for worked in _with_progress(worked_chunks, tally):
        spool.add(worked.encoded)
        tally.merge(worked.tally)
    facts = spool.finish()
    near = find_near_repeats(spool, facts, settings.splits, request.dataset.preparation, work)
    choice = choose_rows(facts, _rules(request), near, labels)
    outcome = Outcome(request.sources, settings, encoder, spool, facts, choice, near, tally)
    outcome.count_dropped()
    weights = choice.weight[choice.rows_of(Split.TRAIN)]
    rows_per_epoch = order_rows(weights, 1, request.seed).rows_per_epoch
    try:
        refuse_data(request.dataset, outcome, rows_per_epoch)
    except DataError as error:
        raise DataRefused(error, outcome.report(digest)) from error
    outcome.write(folder)
    report = outcome.report(digest)
    (folder / REPORT_FILE_NAME).write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return PreparedData(report, rows_per_epoch, tuple(labels))


# --- before the first row --------------------------------------------------------------------------------------


def decide_formats(
    sources: Sequence[LocalSource], redact: Callable[[str], str] = str
) -> tuple[RowFormat | None, ...]:
    """Decide how each source is read, from its first rows; None where no row is an object. Raises DataError.

    What is said names columns, and so what somebody wrote: it goes through `redact`.
    """
    return tuple(_decide_format(source, redact) for source in sources)


def _decide_format(source: LocalSource, redact: Callable[[str], str]) -> RowFormat | None:
    first = list(islice(read_rows(source), _ROWS_SEARCHED))
    if not first:
        raise DataError(f"{source.label} has no rows. Put rows into it, or remove it from {source.field}.")
    objects = [row.value for row in first if isinstance(row, RawRow) and isinstance(row.value, dict)]
    if not objects:
        return None
    try:
        row_format = decide_format(source.settings, source.label, objects[:_ROWS_LOOKED_AT])
    except DataError as error:
        raise DataError(redact(error.message)) from None
    row_format = replace(row_format, explanation=redact(row_format.explanation))
    logger.info("format of %s", row_format.explanation)
    return row_format


def _reason_redactor(dataset: Dataset) -> Callable[[str], str]:
    redaction = Cleaner.build(dataset.preparation).redaction
    return redaction.redact_reason if redaction else str


def collect_labels(sources: Sequence[LocalSource], formats: Sequence[RowFormat | None]) -> tuple[str, ...]:
    """The classes that occur in Classification rows, sorted: an instruction names them all."""
    found = set[str]()
    for source, row_format in zip(sources, formats, strict=True):
        if row_format is not None and row_format.format is DataFormat.CLASSIFICATION:
            labels = (label_of(row, row_format) for row in read_rows(source) if isinstance(row, RawRow))
            for label in labels:
                found.update([label] if isinstance(label, str) else ())
                _refuse_many_labels(found)
    return tuple(sorted(found))


def _refuse_many_labels(found: Collection[str]) -> None:
    if len(found) > _MOST_LABELS:
        raise DataError(
            f"The Classification rows have more than {_MOST_LABELS:,} different labels, which no instruction can name. "
            "Correct dataset.train[].columns.label, or set format: InputTarget for answers that are "
            "no classes."
        )


def _worker_settings(
    request: DataRequest, formats: tuple[RowFormat | None, ...], encoder: ExampleEncoder
) -> WorkerSettings:
    return WorkerSettings(
        context=FormatContext(request.task, request.dataset.system_prompt, encoder.settings.labels),
        preparation=request.dataset.preparation,
        encoder=encoder.settings,
        formats=formats,
        splits=_source_splits(request),
        files=tuple(file for source in request.sources for file in _file_labels(source)),
        max_length=request.max_length,
        words=request.words,
        seed=request.seed,
        compares_rows=request.dataset.preparation.duplicates is not Duplicates.NONE
        or request.dataset.validation is not None
        or request.dataset.test is not None,
    )


def _source_splits(request: DataRequest) -> tuple[Split, ...]:
    return tuple(source.split for source in request.sources)


def _file_labels(source: LocalSource) -> tuple[str, ...]:
    return tuple(file.label for file in source.files) or (source.label,)


def _rules(request: DataRequest) -> Rules:
    dataset, preparation = request.dataset, request.dataset.preparation
    return Rules(
        splits=_source_splits(request),
        weights=tuple(source.settings.weight for source in request.sources),
        drop_duplicates=preparation.duplicates is not Duplicates.NONE,
        leakage=preparation.leakage,
        validation_fraction=dataset.validation.fraction if dataset.validation else None,
        balance=preparation.balance,
        seed=request.seed,
    )


# --- each row by itself ----------------------------------------------------------------------------------------


def chunks_of(sources: Sequence[LocalSource]) -> Iterator[Chunk]:
    """Cut the rows into chunks: so many rows at most, and of long ones fewer."""
    for number, source in enumerate(sources):
        chunk, size = list[RawRow | RowProblem](), 0
        for row in read_rows(source):
            chunk.append(row)
            size += _rough_size(row.value) if isinstance(row, RawRow) else 0
            if len(chunk) == CHUNK_ROWS or size >= CHUNK_CHARACTERS:
                yield Chunk(number, tuple(chunk))
                chunk, size = [], 0
        if chunk:
            yield Chunk(number, tuple(chunk))


def _rough_size(value: object) -> int:
    """Characters of the text in a row: what decides how much memory it takes."""
    match value:
        case str():
            return len(value)
        case dict():
            return sum(map(_rough_size, value.values()))
        case list():
            return sum(map(_rough_size, value))
    return 0


def _with_progress(worked: Iterator[WorkedChunk], tally: Tally) -> Iterator[WorkedChunk]:
    began = last = time.monotonic()
    for each in worked:
        yield each
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_LINES:
            last = now
            logger.info("%d rows so far, %.0f a second", tally.rows_read, tally.rows_read / (now - began))
