"""From fetched sources to the prepared data set: the story of data preparation, top to bottom.

First each row by itself, in several processes; then the decisions about rows as a whole; then the files. Memory does
not grow with the data but for some 50 bytes a row. A data set that cannot be used ends in DataRefused with its report.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from finetune_api.spec import DataFormat, Dataset, Duplicates, Task
from finetune_trainer.data.batches import order_rows
from finetune_trainer.data.encoding import EncoderSettings
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
from finetune_trainer.data.workers import CHUNK_ROWS, work_on
from finetune_trainer.errors import DataError

logger = logging.getLogger(__name__)

_ROWS_LOOKED_AT = 32
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
    encoder: EncoderSettings
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
    formats = decide_formats(request.sources)
    labels = request.labels or collect_labels(request.sources, formats)
    settings = _worker_settings(request, formats, labels)
    tally, spool = Tally(), Spool(work / "spool.arrow")
    for worked in _with_progress(work_on(_chunks(request.sources), settings, request.processes), tally):
        spool.add(worked.encoded)
        tally.merge(worked.tally)
    facts = spool.finish()
    near = find_near_repeats(spool, facts, settings.splits, request.dataset.preparation, work)
    choice = choose_rows(facts, _rules(request), near, labels)
    outcome = Outcome(request.sources, settings, spool, facts, choice, near, tally)
    outcome.count_dropped()
    try:
        refuse_data(request.dataset, outcome)
    except DataError as error:
        raise DataRefused(error, outcome.report(digest)) from error
    outcome.write(folder)
    report = outcome.report(digest)
    (folder / REPORT_FILE_NAME).write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    weights = choice.weight[choice.rows_of(Split.TRAIN)]
    return PreparedData(report, order_rows(weights, 1, request.seed).rows_per_epoch, tuple(labels))


# --- before the first row --------------------------------------------------------------------------------------


def decide_formats(sources: Sequence[LocalSource]) -> tuple[RowFormat | None, ...]:
    """Decide how each source is read, from its first rows; None where no row is an object. Raises DataError."""
    return tuple(_decide_format(source) for source in sources)


def _decide_format(source: LocalSource) -> RowFormat | None:
    found = list(islice(read_rows(source), _ROWS_LOOKED_AT))
    if not found:
        raise DataError(f"{source.label} has no rows. Put rows into it, or remove it from {source.field}.")
    objects = [row.value for row in found if isinstance(row, RawRow) and isinstance(row.value, dict)]
    if not objects:
        return None
    row_format = decide_format(source.settings, source.label, objects)
    logger.info("format of %s", row_format.explanation)
    return row_format


def collect_labels(sources: Sequence[LocalSource], formats: Sequence[RowFormat | None]) -> tuple[str, ...]:
    """The classes that occur in Classification rows, sorted: an instruction names them all."""
    found = set[str]()
    for source, row_format in zip(sources, formats, strict=True):
        if row_format is not None and row_format.format is DataFormat.CLASSIFICATION:
            labels = (label_of(row, row_format) for row in read_rows(source) if isinstance(row, RawRow))
            found.update(label for label in labels if isinstance(label, str))
    if len(found) > _MOST_LABELS:
        raise DataError(
            f"The Classification rows have {len(found):,} different labels, and at most {_MOST_LABELS:,} can be named "
            "in an instruction. Correct dataset.train[].columns.label, or set format: InputTarget for answers that are "
            "no classes."
        )
    return tuple(sorted(found))


def _worker_settings(
    request: DataRequest, formats: tuple[RowFormat | None, ...], labels: Sequence[str]
) -> WorkerSettings:
    return WorkerSettings(
        context=FormatContext(request.task, request.dataset.system_prompt, tuple(labels)),
        preparation=request.dataset.preparation,
        encoder=request.encoder,
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


def _chunks(sources: Sequence[LocalSource]) -> Iterator[Chunk]:
    for number, source in enumerate(sources):
        rows: Iterator[RawRow | RowProblem] = read_rows(source)
        while chunk := tuple(islice(rows, CHUNK_ROWS)):
            yield Chunk(number, chunk)


def _with_progress(worked: Iterator[WorkedChunk], tally: Tally) -> Iterator[WorkedChunk]:
    began = last = time.monotonic()
    for each in worked:
        yield each
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_LINES:
            last = now
            logger.info("%d rows so far, %.0f a second", tally.rows_read, tally.rows_read / (now - began))
