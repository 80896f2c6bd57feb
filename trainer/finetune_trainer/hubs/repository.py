"""A hub's repository at work: resolved to one commit, files fetched, resumed where they broke off, and verified."""

from __future__ import annotations

import errno
import hashlib
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from finetune_trainer.errors import ObjectDamaged, UserError
from finetune_trainer.hubs.address import HubFile, HubSnapshot, RepositoryAddress
from finetune_trainer.hubs.client import HubClient, open_client
from finetune_trainer.hubs.retrying import Attempts, Patience, TryAgain, persist
from finetune_trainer.storage.locations import safe_path

logger = logging.getLogger(__name__)

_PARTIAL_SUFFIX = ".partial"
_HASH_BLOCK_BYTES = 4 * 1024 * 1024
# A damaged file is fetched once more: a content server may have held a bad copy.
_FETCHES_OF_A_DAMAGED_FILE = 2


class HubRepository:
    """One repository. Everything that it downloads is of the commit that it was resolved to."""

    def __init__(self, address: RepositoryAddress, client: HubClient, patience: Patience) -> None:
        self._address = address
        self._client = client
        self._patience = patience
        self._snapshot: HubSnapshot | None = None

    @classmethod
    def open(cls, address: RepositoryAddress, patience: Patience | None = None) -> Self:
        """Import the hub's library; nothing is sent yet. Raises UserError for an address that is refused."""
        return cls(address, open_client(address), patience or Patience())

    @property
    def address(self) -> RepositoryAddress:
        """The repository as the job names it."""
        return self._address

    def resolve(self) -> HubSnapshot:
        """The commit that the revision stands for now, and its files. Raises UserError, StorageUnavailable."""
        if self._snapshot is None:
            self._snapshot = persist(
                self._patience, f"list the files of {self._address.uri}", self._client.resolve
            )
            logger.info("%s is at commit %s", self._address.uri, self._snapshot.commit)
        return self._snapshot

    def download(self, file: HubFile, directory: Path) -> Path:
        """Fetch a file of the commit to `directory/<its name>`; what an earlier call left there is gone on with.

        Raises ObjectDamaged for bytes that the hub did not list, UserError, StorageUnavailable.
        """
        commit, path = self.resolve().commit, safe_path(directory, file.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        for _ in range(_FETCHES_OF_A_DAMAGED_FILE):
            with _room_for(file), PartialFile(path.with_name(path.name + _PARTIAL_SUFFIX)) as partial:
                self._fetch(commit, file, partial)
                problem = partial.problem(file)
            if problem is None:
                partial.path.replace(path)
                _log(self._address, file, time.monotonic() - began)
                return path
            partial.path.unlink()
            logger.warning("%s of %s %s", file.name, self._address.uri, problem)
        raise ObjectDamaged(
            f"{file.name} of {self._address.uri} {problem}, also when fetched again. The stage is tried again later; "
            "if this repeats, set another revision, or a mirror that is not damaged."
        )

    def read(self, file: HubFile, directory: Path) -> bytes:
        """Fetch a small file and return its bytes."""
        return self.download(file, directory).read_bytes()

    def _fetch(self, commit: str, file: HubFile, partial: PartialFile) -> None:
        attempts = Attempts(self._patience, f"fetch {file.name} of {self._address.uri}")
        while partial.size_bytes < file.size_bytes:
            had_bytes = partial.size_bytes
            try:
                self._fetch_rest(commit, file, partial)
            except TryAgain as failure:
                if partial.size_bytes > had_bytes:
                    attempts.start_over()
                attempts.wait(failure)

    def _fetch_rest(self, commit: str, file: HubFile, partial: PartialFile) -> None:
        with self._client.open_file(commit, file, partial.size_bytes) as body:
            partial.cut(body.start)
            for block in body.blocks:
                partial.append(block)
                if partial.size_bytes > file.size_bytes:
                    return  # Not the file that was listed; its hash says so.
        if partial.size_bytes < file.size_bytes:
            raise TryAgain(f"it ended after {partial.size_bytes} of {file.size_bytes} bytes")


class PartialFile:
    """A file that grows, hashed while it does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab")
        self._sha256 = hashlib.sha256()
        self.size_bytes = 0
        self._hash_what_is_there()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def append(self, block: bytes) -> None:
        """Write bytes at the end."""
        self._file.write(block)
        self._sha256.update(block)
        self.size_bytes += len(block)

    def cut(self, size_bytes: int) -> None:
        """Forget what stands behind this size: the next bytes begin there. Raises TryAgain if they leave a gap."""
        if size_bytes > self.size_bytes:
            raise TryAgain(f"it was answered from byte {size_bytes} on, not from {self.size_bytes}")
        if size_bytes < self.size_bytes:
            self._file.truncate(size_bytes)
            self._hash_what_is_there()

    def problem(self, file: HubFile) -> str | None:
        """How the bytes differ from what the hub lists; None when they do not."""
        self._file.flush()
        if self.size_bytes != file.size_bytes:
            return f"has {self.size_bytes} bytes, the hub lists {file.size_bytes}"
        if file.sha256 is not None and self._sha256.hexdigest() != file.sha256:
            return f"does not have the SHA-256 that the hub lists ({file.sha256[:12]}…)"
        if file.sha256 is None and file.git_oid is not None and git_oid_of(self.path) != file.git_oid:
            return f"does not have the hash that the hub lists ({file.git_oid[:12]}…)"
        return None

    def _hash_what_is_there(self) -> None:
        self._file.flush()
        self._sha256, self.size_bytes = hashlib.sha256(), 0
        with self.path.open("rb") as file:
            while block := file.read(_HASH_BLOCK_BYTES):
                self._sha256.update(block)
                self.size_bytes += len(block)


def git_oid_of(path: Path) -> str:
    """The name git gives a file's content."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def _room_for(file: HubFile) -> Iterator[None]:
    """Raise UserError where the disk is too small for a file."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise UserError(
            f"The pod's disk is full: {file.name} has {file.size_bytes / 1e9:.1f} GB. Raise "
            "resources.prepare.ephemeralStorage, or name a smaller source."
        ) from error


def _log(address: RepositoryAddress, file: HubFile, seconds: float) -> None:
    logger.info("fetched %s of %s: %.1f MB in %.1f s", file.name, address.uri, file.size_bytes / 1e6, seconds)
