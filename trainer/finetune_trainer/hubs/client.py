"""What is asked of a hub's client library: the list of a repository's files, and a file's bytes from some byte on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from finetune_trainer.hubs.address import Hub, HubFile, HubSnapshot, RepositoryAddress


@dataclass(frozen=True)
class Body:
    """Bytes as they come, and the byte of the file at which they begin: a server may ignore where it was asked to."""

    start: int
    blocks: Iterator[bytes]


class HubClient(Protocol):
    """One repository by one hub's library. Both methods raise TryAgain, or UserError with what to do."""

    def resolve(self) -> HubSnapshot:
        """List the files of the wanted revision, and say which commit it is."""
        ...

    def open_file(self, commit: str, file: HubFile, start: int) -> AbstractContextManager[Body]:
        """Ask for a file's bytes from `start` on."""
        ...


def first_byte(status: int, content_range: str | None) -> int:
    """Where a body begins in its file, as the answer says: only a partial one (206) need not begin at 0."""
    found = re.match(r"bytes (\d+)-", content_range or "")
    return int(found[1]) if status == 206 and found else 0


def open_client(address: RepositoryAddress) -> HubClient:
    """The client for a repository's hub; its library is imported now and not before."""
    if address.hub is Hub.HUGGING_FACE:
        from finetune_trainer.hubs.huggingface import HuggingFaceClient

        return HuggingFaceClient(address)
    from finetune_trainer.hubs.modelscope import ModelScopeClient

    return ModelScopeClient(address)
