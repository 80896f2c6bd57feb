"""Files as manifests name them: size and SHA-256, written down and compared."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import StringConstraints

from finetune_api.layout import FileEntry
from finetune_trainer.checksums import digests_of_file

if TYPE_CHECKING:  # boto3 would be imported wherever a file is hashed
    from finetune_trainer.storage import ObjectStore


class CheckpointFile(FileEntry):
    """A file with the checksum that readers compare: a CRC finds what storage and networks do, at memory speed."""

    crc64nvme: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]


def checkpoint_file(name: str, path: Path) -> CheckpointFile:
    """Describe a file of a checkpoint."""
    sha256, crc = digests_of_file(path)
    return CheckpointFile(name=name, size_bytes=path.stat().st_size, sha256=sha256, crc64nvme=crc)


def file_entry(path: Path, directory: Path) -> FileEntry:
    """Describe a file by its name below `directory`, size and SHA-256."""
    return FileEntry(
        name=path.relative_to(directory).as_posix(),
        size_bytes=path.stat().st_size,
        sha256=sha256_of_file(path),
    )


def file_problem(path: Path, entry: FileEntry) -> str | None:
    """Say how a local file differs from its manifest entry; None when it does not."""
    size_bytes = path.stat().st_size
    if size_bytes != entry.size_bytes:
        return f"{entry.name} has {size_bytes} bytes, its manifest says {entry.size_bytes}"
    if sha256_of_file(path) != entry.sha256:
        return f"{entry.name} does not have the SHA-256 of its manifest"
    return None


def missing_objects(store: ObjectStore, folder_uri: str, entries: Iterable[FileEntry]) -> list[str]:
    """Names of the entries that the store does not have in full length."""
    sizes = {info.name: info.size_bytes for info in store.list_objects(folder_uri)}
    return [entry.name for entry in entries if sizes.get(entry.name) != entry.size_bytes]


def sha256_of_file(path: Path) -> str:
    """Hash a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
