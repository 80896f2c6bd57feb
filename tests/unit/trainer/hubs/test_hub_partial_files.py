"""A file that grows while it is fetched."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from finetune_trainer.errors import UserError
from finetune_trainer.hubs import Hub, HubFile, HubRepository, HubSnapshot, RepositoryAddress, RepositoryKind
from finetune_trainer.hubs.client import Body
from finetune_trainer.hubs.repository import PartialFile
from finetune_trainer.hubs.retrying import Patience, TryAgain
from tests.stand_ins.hugging_face_hub import git_oid

DATA = b"some bytes of a file"
FILE = HubFile("a", len(DATA), sha256=hashlib.sha256(DATA).hexdigest())


def test_a_file_in_parts_is_hashed_as_a_whole(tmp_path: Path) -> None:
    with PartialFile(tmp_path / "a") as partial:
        for byte in DATA:
            partial.append(bytes([byte]))
        assert partial.problem(FILE) is None
    assert (tmp_path / "a").read_bytes() == DATA


def test_a_later_process_goes_on_with_it(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(DATA[:7])
    with PartialFile(tmp_path / "a") as partial:
        assert partial.size_bytes == 7
        partial.append(DATA[7:])
        assert partial.problem(FILE) is None


def test_bytes_that_come_again_replace_those_there_are(tmp_path: Path) -> None:
    with PartialFile(tmp_path / "a") as partial:
        partial.append(b"some other")
        partial.cut(5)
        partial.append(DATA[5:])
        assert partial.problem(FILE) is None


def test_a_gap_is_refused(tmp_path: Path) -> None:
    with PartialFile(tmp_path / "a") as partial:
        partial.append(DATA[:3])
        with pytest.raises(TryAgain, match="answered from byte 4 on, not from 3"):
            partial.cut(4)


def test_a_disk_that_is_full_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Client:
        def resolve(self) -> HubSnapshot:
            return HubSnapshot("c0ffee", (FILE,))

        @contextmanager
        def open_file(self, commit: str, file: HubFile, start: int) -> Iterator[Body]:
            yield Body(0, iter([DATA]))

    def append(self: PartialFile, block: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(PartialFile, "append", append)
    address = RepositoryAddress(Hub.HUGGING_FACE, RepositoryKind.MODEL, "org/name")
    with pytest.raises(
        UserError, match=r"The pod's disk is full: a has .* Raise resources\.prepare\.ephemeralStorage"
    ):
        HubRepository(address, Client(), Patience()).download(FILE, tmp_path)


@pytest.mark.parametrize(
    ("data", "file", "problem"),
    [
        (DATA[:-1], FILE, "has 19 bytes, the hub lists 20"),
        (DATA[:-1] + b"?", FILE, "does not have the SHA-256 that the hub lists"),
        (
            DATA[:-1] + b"?",
            HubFile("a", len(DATA), git_oid=git_oid(DATA)),
            "does not have the hash that the hub",
        ),
        (DATA, HubFile("a", len(DATA), git_oid=git_oid(DATA)), None),
        (DATA, HubFile("a", len(DATA)), None),
    ],
)
def test_what_differs_from_the_list_is_said(
    tmp_path: Path, data: bytes, file: HubFile, problem: str | None
) -> None:
    with PartialFile(tmp_path / "a") as partial:
        partial.append(data)
        found = partial.problem(file)
    assert (found is None) == (problem is None)
    assert problem is None or problem in str(found)
