"""Downloads the files of a manifest in parallel parts, goes on where an earlier try stopped, and verifies each file.

A file is laid out at full size at once; a journal beside it names the parts that are in it.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from finetune_api.layout import FileEntry
from finetune_cli.errors import CommandError
from finetune_cli.storage import StoreInterrupted

PART_BYTES = 16 << 20
PART_TRIES = 5
RETRY_DELAY_SECONDS = 0.5

OnBytes = Callable[[int], None]


class RangeReader(Protocol):
    """What is needed of a store."""

    def read_range(self, uri: str, start: int, length: int) -> Iterator[bytes]:
        """Read part of an object, in chunks."""


@dataclass(frozen=True)
class Part:
    """A range of one file."""

    number: int
    start: int
    length: int


def split_parts(size_bytes: int, part_bytes: int = PART_BYTES) -> list[Part]:
    """Cut a file into ranges; an empty file has none."""
    starts = range(0, size_bytes, part_bytes)
    return [Part(number, start, min(part_bytes, size_bytes - start)) for number, start in enumerate(starts)]


@dataclass(frozen=True)
class PartialFile:
    """A file on its way."""

    uri: str
    entry: FileEntry
    path: Path
    journal: Path
    _lock: threading.Lock = field(default_factory=threading.Lock, compare=False)

    def missing_parts(self) -> list[Part]:
        """Return what is still to fetch. A journal without its file, or the other way round, counts for nothing."""
        present = self.path.is_file() and self.path.stat().st_size == self.entry.size_bytes
        done = (
            {int(n) for n in self.journal.read_text().split()}
            if present and self.journal.is_file()
            else set()
        )
        return [part for part in split_parts(self.entry.size_bytes) if part.number not in done]

    def lay_out(self) -> None:
        """Make the file at its full size, and an empty journal, unless an earlier try left both."""
        if (
            self.journal.is_file()
            and self.path.is_file()
            and self.path.stat().st_size == self.entry.size_bytes
        ):
            return
        self.discard()
        for folder in (self.path.parent, self.journal.parent):
            folder.mkdir(parents=True, exist_ok=True)
        with self.path.open("wb") as file:
            file.truncate(self.entry.size_bytes)
        self.journal.touch()

    def fetch(self, store: RangeReader, part: Part, on_bytes: OnBytes) -> None:
        """Fetch one part into its place, then note it in the journal."""
        written = 0
        with self.path.open("r+b") as file:
            file.seek(part.start)
            for chunk in store.read_range(self.uri, part.start, part.length):
                # A store that ignores the range must not write over the next part.
                written += file.write(chunk[: part.length - written])
                on_bytes(len(chunk))
        if written != part.length:
            raise StoreInterrupted(f"{self.uri} ended after {written} of {part.length} bytes of a part.")
        with self._lock, self.journal.open("a") as journal:
            journal.write(f"{part.number}\n")

    def is_valid(self) -> bool:
        """Compare the whole file with its SHA-256."""
        return is_intact(self.path, self.entry)

    def discard(self) -> None:
        """Forget everything fetched."""
        self.path.unlink(missing_ok=True)
        self.journal.unlink(missing_ok=True)


def is_intact(path: Path, entry: FileEntry) -> bool:
    """Whether the file is there and has the manifest's SHA-256."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == entry.sha256


def download_files(
    store: RangeReader, files: Sequence[PartialFile], on_bytes: OnBytes, *, parallel: int
) -> None:
    """Fetch what is missing and verify everything. Raises CommandError naming a file that is not what was written.

    A file that does not verify is fetched once more: what an earlier try left may have been cut by a crash.
    """
    invalid: Sequence[PartialFile] = files
    for _ in range(2):
        _fetch_all(store, invalid, on_bytes, parallel)
        with ThreadPoolExecutor(parallel) as pool:
            verdicts = list(pool.map(PartialFile.is_valid, invalid))
        invalid = [file for file, is_valid in zip(invalid, verdicts, strict=True) if not is_valid]
        for file in invalid:
            file.discard()
        if not invalid:
            return
    bad = invalid[0]
    raise CommandError(
        f"{bad.uri} is not the file that the job wrote: its SHA-256 is not {bad.entry.sha256[:12]}…, as the manifest "
        "says. The copy in the store is damaged or was replaced; nothing was put in place. Run the job again."
    )


def _fetch_all(store: RangeReader, files: Iterable[PartialFile], on_bytes: OnBytes, parallel: int) -> None:
    tasks: list[tuple[PartialFile, Part]] = []
    for file in files:
        file.lay_out()
        tasks += [(file, part) for part in file.missing_parts()]
    pool = ThreadPoolExecutor(parallel)
    try:
        running = [pool.submit(_fetch_with_retries, store, file, part, on_bytes) for file, part in tasks]
        for future in running:
            future.result()
    finally:
        # After an error or Ctrl-C: what runs may end its part, nothing new begins.
        pool.shutdown(wait=True, cancel_futures=True)


def _fetch_with_retries(store: RangeReader, file: PartialFile, part: Part, on_bytes: OnBytes) -> None:
    for attempt in range(1, PART_TRIES + 1):
        fetched = 0

        def count(size: int) -> None:
            nonlocal fetched
            fetched += size
            on_bytes(size)

        try:
            return file.fetch(store, part, count)
        except StoreInterrupted:
            on_bytes(-fetched)
            if attempt == PART_TRIES:
                raise
            time.sleep(RETRY_DELAY_SECONDS * 2 ** (attempt - 1))
    return None
