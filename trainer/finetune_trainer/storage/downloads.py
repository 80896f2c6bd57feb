"""Downloads files in parallel ranges, straight into their places, and computes their CRC64-NVME as they arrive.

boto3's own manager has no checksums to compare: whoever wants some would read everything once more. A CRC is combined
from those of the ranges, in whatever order they come, and costs a twentieth of a SHA-256.
"""

from __future__ import annotations

import os
import random
import re
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from awscrt.checksums import combine_crc64nvme, crc64nvme
from urllib3.exceptions import HTTPError

from finetune_trainer.checksums import format_crc
from finetune_trainer.errors import StorageUnavailable

_MIB = 1024 * 1024
RANGE_BYTES = 16 * _MIB
# Whole MiBs would each come from fresh pages: three times the system's time.
_BLOCK_BYTES = _MIB // 2
_WORKERS = 6
# botocore repeats requests that fail; what breaks off in the midst of an answer is for us.
_MOST_BREAKS = 8
_LONGEST_PAUSE_SECONDS = 20.0
_TOTAL = re.compile(r"bytes \d+-\d+/(\d+)")


class FetchRange(Protocol):
    """Asks for bytes of an object: the answer of GetObject, or None for an object without any."""

    def __call__(self, uri: str, start: int, length: int, etag: str | None) -> Mapping[str, Any] | None:
        """`etag`: of the object whose first range has come; another one is an error."""
        ...


@dataclass
class _File:
    """A file on its way, and the CRCs of the ranges that have come, by where they begin."""

    uri: str
    path: Path
    descriptor: int = -1
    size_bytes: int = 0
    etag: str | None = None
    crcs: dict[int, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def unfinished(self) -> Path:
        """Where it stands until it is complete."""
        return self.path.with_name(f".{self.path.name}.part")

    def range_length(self, start: int) -> int:
        """Bytes of the range that begins there."""
        return min(RANGE_BYTES, self.size_bytes - start)

    def crc(self) -> int:
        """Of the whole file."""
        crc = 0
        for start in range(0, self.size_bytes, RANGE_BYTES):
            crc = combine_crc64nvme(crc, self.crcs[start], self.range_length(start))
        return crc


class Downloads:
    """One call's files."""

    def __init__(self, fetch: FetchRange, files: Mapping[str, Path]) -> None:
        self._fetch = fetch
        self._files = [_File(uri, path) for uri, path in files.items()]
        self._failed = threading.Event()
        self._pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="download")
        self._pending: set[Future[None]] = set()
        self._lock = threading.Lock()

    def run(self) -> dict[str, str]:
        """Bring everything; CRC64-NVME by URI. Raises the first error."""
        try:
            for file in self._files:
                file.path.parent.mkdir(parents=True, exist_ok=True)
                self._submit(self._begin, file)
            while pending := self._take_pending():
                done, _ = wait(pending, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
        finally:
            self._failed.set()
            self._pool.shutdown(cancel_futures=True)
            self._forget_unfinished()
        return {file.uri: format_crc(file.crc()) for file in self._files}

    def _submit(self, action: Callable[..., None], *arguments: object) -> None:
        with self._lock:
            self._pending.add(self._pool.submit(action, *arguments))

    def _take_pending(self) -> set[Future[None]]:
        with self._lock:
            self._pending = {future for future in self._pending if not future.done() or future.exception()}
            return set(self._pending)

    def _begin(self, file: _File) -> None:
        """Bring the first range, which tells the size, and ask for the others."""
        file.descriptor = os.open(file.unfinished, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        answer = self._fetch(file.uri, 0, RANGE_BYTES, None)
        if answer is None:
            self._finish(file)
            return
        match = _TOTAL.match(answer.get("ContentRange", ""))
        file.size_bytes = int(match[1]) if match else int(answer["ContentLength"])
        file.etag = answer["ETag"]
        os.ftruncate(file.descriptor, file.size_bytes)
        starts = range(RANGE_BYTES, file.size_bytes, RANGE_BYTES)
        for start in starts:
            self._submit(self._bring, file, start)
        self._bring(file, 0, answer)

    def _bring(self, file: _File, start: int, answer: Mapping[str, Any] | None = None) -> None:
        breaks = 0
        while not self._failed.is_set():
            try:
                if answer is None:
                    answer = self._fetch(file.uri, start, file.range_length(start), file.etag)
                    assert answer is not None, "it had bytes before"
                crc = self._write(file, answer["Body"], start)
            except (HTTPError, ConnectionError, TimeoutError) as error:
                breaks += 1
                if breaks > _MOST_BREAKS:
                    raise StorageUnavailable(
                        f"Could not read {file.uri}: the answer broke off {breaks} times ({error}). "
                        "The stage is tried again."
                    ) from error
                longest = min(_LONGEST_PAUSE_SECONDS, 0.5 * 2**breaks)
                self._failed.wait(longest * random.uniform(0.5, 1))  # noqa: S311
                answer = None
            else:
                # Where another range has failed meanwhile, this one is not whole.
                if not self._failed.is_set():
                    self._arrive(file, start, crc)
                return

    def _write(self, file: _File, body: Any, start: int) -> int:  # noqa: ANN401 (botocore's stream)
        """Write a range as it comes, and return its CRC. Raises HTTPError where it ends before its time."""
        position, end, crc = start, start + file.range_length(start), 0
        # The stream below the one that compares checksums: some stores send the whole object's with a part of it.
        with body as raw:
            while position < end and not self._failed.is_set():
                block = raw.read(min(_BLOCK_BYTES, end - position))
                if not block:
                    raise HTTPError("the answer ended before its time")
                crc = crc64nvme(block, crc)
                position += _write_all(file.descriptor, block, position)
        return crc

    def _arrive(self, file: _File, start: int, crc: int) -> None:
        with file.lock:
            file.crcs[start] = crc
            is_complete = len(file.crcs) * RANGE_BYTES >= file.size_bytes
        if is_complete:
            self._finish(file)

    def _finish(self, file: _File) -> None:
        with file.lock:
            if file.descriptor < 0:
                return
            os.close(file.descriptor)
            file.descriptor = -1
        file.unfinished.replace(file.path)

    def _forget_unfinished(self) -> None:
        for file in self._files:
            if file.descriptor >= 0:
                os.close(file.descriptor)
                file.descriptor = -1
                file.unfinished.unlink(missing_ok=True)


def _write_all(descriptor: int, block: bytes, position: int) -> int:
    written = os.pwrite(descriptor, block, position)
    while written < len(block):
        written += os.pwrite(descriptor, block[written:], position + written)
    return written


def download_with_crcs(fetch: FetchRange, files: Mapping[str, Path]) -> dict[str, str]:
    """Download several objects at once; each file appears when it is complete. Their CRC64-NVME by URI."""
    return Downloads(fetch, files).run()
