"""Spreads chunks of rows over processes and gives their results back in order, a bounded number at a time."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain, islice
from typing import Literal

from finetune_trainer.data.encoding import ExampleEncoder
from finetune_trainer.data.row_worker import Chunk, RowWorker, WorkedChunk, WorkerSettings
from finetune_trainer.data.rows import Place, RawRow, RowProblem
from finetune_trainer.errors import OutOfMemory, StageError

CHUNK_ROWS = 1000
# Rows may be long: what is under way stays some 100 MB whatever their size.
CHUNK_CHARACTERS = 4 * 1024 * 1024
# The socket by which processes are forked stands in the temporary folder, and its whole path may have 107 bytes.
_LONGEST_TEMPORARY_FOLDER = 60
# Fewer chunks are done before a second process has started.
_WORTH_PROCESSES = 4
# Chunks under way for each process: enough that none waits, few enough that memory stays small.
_AHEAD = 3

_worker: RowWorker | StageError | None = None


def work_on(
    chunks: Iterator[Chunk], settings: WorkerSettings, encoder: ExampleEncoder, processes: int
) -> Iterator[WorkedChunk]:
    """Work on all chunks, in this process, with its encoder, where they are few."""
    first = list(islice(chunks, _WORTH_PROCESSES))
    everything = chain(first, chunks)
    if processes == 1 or len(first) < _WORTH_PROCESSES:
        worker = RowWorker(settings, encoder)
        return (worker.work(chunk) for chunk in everything)
    return _work_in_processes(everything, settings, processes)


def _work_in_processes(
    chunks: Iterator[Chunk], settings: WorkerSettings, processes: int
) -> Iterator[WorkedChunk]:
    # Forked from a process of its own that only imports: this one has threads, of the store's client and the tokenizer.
    context = _context()
    under_way: deque[Future[WorkedChunk]] = deque()
    with ProcessPoolExecutor(processes, context, initializer=_start, initargs=(settings,)) as pool:
        try:
            for chunk in chunks:
                under_way.append(pool.submit(_work, _pack(chunk)))
                if len(under_way) >= processes * _AHEAD:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        except BrokenProcessPool as error:
            raise OutOfMemory(
                "A process that prepares rows was killed, most likely because the pod's memory is used up. Raise "
                "resources.prepare.memory, or lower resources.prepare.cpu: each CPU runs such a process."
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _context() -> multiprocessing.context.BaseContext:
    if len(os.fsencode(tempfile.gettempdir())) > _LONGEST_TEMPORARY_FOLDER:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([RowWorker.__module__])
    return context


def _start(settings: WorkerSettings) -> None:
    global _worker
    # One process a CPU already; the tokenizer's own threads would fight for them.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        _worker = RowWorker(settings, ExampleEncoder.build(settings.encoder))
    except StageError as error:
        # An error here would break the pool, and look like a process that was killed: the first chunk tells it.
        _worker = error


def _work(packed: _Packed) -> WorkedChunk:
    if isinstance(_worker, StageError):
        raise _worker
    assert _worker is not None
    return _worker.work(_unpack(packed))


# --- on the way ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Packed:
    """A chunk as columns: a thousand small objects take several times as long to hand over."""

    source: int
    places: tuple[tuple[str, Literal["line", "row"], int], ...]
    values: list[object]
    # Of the rows that could not be read, by their position.
    problems: dict[int, tuple[str, str | None]]


def _pack(chunk: Chunk) -> _Packed:
    places = tuple((row.place.file, row.place.unit, row.place.number) for row in chunk.rows)
    values = [row.value if isinstance(row, RawRow) else None for row in chunk.rows]
    problems = {
        position: (row.reason, row.column)
        for position, row in enumerate(chunk.rows)
        if isinstance(row, RowProblem)
    }
    return _Packed(chunk.source, places, values, problems)


def _unpack(packed: _Packed) -> Chunk:
    rows = [
        RowProblem(Place(*place), *packed.problems[position])
        if position in packed.problems
        else RawRow(Place(*place), value)
        for position, (place, value) in enumerate(zip(packed.places, packed.values, strict=True))
    ]
    return Chunk(packed.source, tuple(rows))
