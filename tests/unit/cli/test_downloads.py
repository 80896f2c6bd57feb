"""Parts, resuming and verification, against a store in memory that counts and misbehaves on demand."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from finetune_api.layout import FileEntry
from finetune_cli import downloads
from finetune_cli.downloads import Part, PartialFile, download_files, split_parts
from finetune_cli.errors import CommandError
from finetune_cli.storage import StoreInterrupted

PART_BYTES = 100


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads.split_parts, "__defaults__", (PART_BYTES,))
    monkeypatch.setattr(downloads, "RETRY_DELAY_SECONDS", 0.0)


@dataclass
class MemoryStore:
    """Serves ranges in chunks of 30 bytes; `break_at` interrupts that request in the middle."""

    objects: dict[str, bytes]
    requests: list[tuple[str, int]] = field(default_factory=list)
    break_at: set[int] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read_range(self, uri: str, start: int, length: int) -> Iterator[bytes]:
        with self._lock:
            self.requests.append((uri, start))
            is_broken = len(self.requests) in self.break_at
        content = self.objects[uri][start : start + length]
        for offset in range(0, len(content), 30):
            if is_broken and offset:
                raise StoreInterrupted("gone")
            yield content[offset : offset + 30]


def make_file(folder: Path, name: str, content: bytes) -> PartialFile:
    entry = FileEntry(name=name, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    return PartialFile(f"s3://b/{name}", entry, folder / "files" / name, folder / "parts" / name)


def random_bytes(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


class Count:
    def __init__(self) -> None:
        self.total = 0
        self._lock = threading.Lock()

    def __call__(self, size: int) -> None:
        with self._lock:
            self.total += size


@pytest.mark.parametrize(
    ("size", "parts"),
    [
        (0, []),
        (1, [Part(0, 0, 1)]),
        (100, [Part(0, 0, 100)]),
        (250, [Part(0, 0, 100), Part(1, 100, 100), Part(2, 200, 50)]),
    ],
    ids=["nothing", "one byte", "exactly one part", "a short last part"],
)
def test_a_file_is_cut_into_parts(size: int, parts: list[Part]) -> None:
    assert split_parts(size, 100) == parts


@pytest.mark.parametrize("parallel", [1, 8])
def test_files_of_every_size_arrive(tmp_path: Path, parallel: int) -> None:
    contents = {
        name: random_bytes(size, size) for name, size in (("a", 0), ("b", 1), ("sub/c", 999), ("d", 200))
    }
    files = [make_file(tmp_path, name, content) for name, content in contents.items()]
    count = Count()
    download_files(
        MemoryStore({f.uri: contents[f.entry.name] for f in files}), files, count, parallel=parallel
    )
    assert {f.entry.name: f.path.read_bytes() for f in files} == contents
    assert count.total == sum(map(len, contents.values()))


def test_a_later_try_fetches_only_what_is_missing(tmp_path: Path) -> None:
    content = random_bytes(500)
    file = make_file(tmp_path, "model", content)
    file.lay_out()
    first = MemoryStore({file.uri: content})
    for part in split_parts(500)[:3]:
        file.fetch(first, part, lambda _: None)
    again = make_file(tmp_path, "model", content)
    second = MemoryStore({file.uri: content})
    download_files(second, [again], lambda _: None, parallel=2)
    assert sorted(start for _, start in second.requests) == [300, 400]
    assert again.path.read_bytes() == content


def test_parts_that_a_crash_left_broken_are_fetched_again(tmp_path: Path) -> None:
    content = random_bytes(300)
    file = make_file(tmp_path, "model", content)
    file.lay_out()
    file.journal.write_text("0\n1\n")  # noted, but their bytes never reached the disk
    store = MemoryStore({file.uri: content})
    download_files(store, [file], lambda _: None, parallel=2)
    assert file.path.read_bytes() == content


@pytest.mark.parametrize("lost", ["path", "journal"])
def test_a_file_without_its_journal_counts_for_nothing(tmp_path: Path, lost: str) -> None:
    content = random_bytes(300)
    file = make_file(tmp_path, "model", content)
    download_files(MemoryStore({file.uri: content}), [file], lambda _: None, parallel=1)
    getattr(file, lost).unlink()
    assert len(file.missing_parts()) == 3


def test_a_broken_connection_is_tried_again_and_counted_once(tmp_path: Path) -> None:
    content = random_bytes(250)
    file = make_file(tmp_path, "model", content)
    store, count = MemoryStore({file.uri: content}, break_at={1, 3}), Count()
    download_files(store, [file], count, parallel=1)
    assert file.path.read_bytes() == content
    assert count.total == 250
    assert len(store.requests) == 5


def test_a_store_that_stays_away_ends_the_download_and_keeps_what_came(tmp_path: Path) -> None:
    content = random_bytes(250)
    file = make_file(tmp_path, "model", content)
    store = MemoryStore({file.uri: content}, break_at=set(range(2, 100)))
    with pytest.raises(StoreInterrupted, match="gone"):
        download_files(store, [file], lambda _: None, parallel=1)
    assert [part.number for part in file.missing_parts()] == [1, 2]


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c[:120] + bytes([c[120] ^ 1]) + c[121:],
        lambda c: c[:-1] + b"",
        lambda c: random_bytes(len(c), 9),
    ],
    ids=["one bit flipped", "cut by a byte", "another file"],
)
def test_a_file_that_is_not_the_manifests_is_refused(tmp_path: Path, change: object) -> None:
    content = random_bytes(250)
    file = make_file(tmp_path, "model", content)
    assert callable(change)
    with pytest.raises(CommandError) as refusal:
        download_files(MemoryStore({file.uri: change(content)}), [file], lambda _: None, parallel=2)
    assert "s3://b/model" in str(refusal.value)


def test_a_store_that_ignores_the_range_cannot_spoil_the_next_part(tmp_path: Path) -> None:
    class Whole(MemoryStore):
        def read_range(self, uri: str, start: int, length: int) -> Iterator[bytes]:
            yield self.objects[uri]

    content = random_bytes(250)
    file = make_file(tmp_path, "model", content)
    with pytest.raises(CommandError, match="is not the file that the job wrote"):
        download_files(Whole({file.uri: content}), [file], lambda _: None, parallel=1)
