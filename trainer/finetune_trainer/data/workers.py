"""Spreads chunks of rows over processes and gives their results back in order, a bounded number at a time."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice

from finetune_trainer.data.row_worker import Chunk, RowWorker, WorkedChunk, WorkerSettings
from finetune_trainer.errors import OutOfMemory

CHUNK_ROWS = 1000
# Fewer chunks are done before a second process has started.
_WORTH_PROCESSES = 4
# Chunks under way for each process: enough that none waits, few enough that memory stays small.
_AHEAD = 3

_worker: RowWorker | None = None


def work_on(chunks: Iterator[Chunk], settings: WorkerSettings, processes: int) -> Iterator[WorkedChunk]:
    """Work on all chunks, in this process where they are few."""
    first = list(islice(chunks, _WORTH_PROCESSES))
    everything = chain(first, chunks)
    if processes == 1 or len(first) < _WORTH_PROCESSES:
        worker = RowWorker(settings)
        return (worker.work(chunk) for chunk in everything)
    return _work_in_processes(everything, settings, processes)


def _work_in_processes(
    chunks: Iterator[Chunk], settings: WorkerSettings, processes: int
) -> Iterator[WorkedChunk]:
    # Spawned, not forked: the store's client and the tokenizer have threads.
    context = multiprocessing.get_context("spawn")
    under_way: deque[Future[WorkedChunk]] = deque()
    with ProcessPoolExecutor(processes, context, initializer=_start, initargs=(settings,)) as pool:
        try:
            for chunk in chunks:
                under_way.append(pool.submit(_work, chunk))
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


def _start(settings: WorkerSettings) -> None:
    global _worker
    # One process a CPU already; the tokenizer's own threads would fight for them.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _worker = RowWorker(settings)


def _work(chunk: Chunk) -> WorkedChunk:
    assert _worker is not None
    return _worker.work(chunk)
