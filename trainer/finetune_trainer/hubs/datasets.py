"""A data set of a hub, at one commit: asked for when it is opened, its files brought when they are fetched."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

from finetune_api.spec import DataSource
from finetune_trainer.data.sources.local import LocalFile
from finetune_trainer.hubs.address import (
    HubFile,
    HubSnapshot,
    RepositoryAddress,
    RepositoryKind,
    parse_hub_uri,
)
from finetune_trainer.hubs.dataset_card import MAX_CARD_BYTES, Configuration, read_configurations
from finetune_trainer.hubs.dataset_files import Wanted, choose_dataset_files
from finetune_trainer.hubs.repository import HubRepository
from finetune_trainer.hubs.retrying import Patience
from finetune_trainer.hubs.tokens import read_token

logger = logging.getLogger(__name__)

_CARD_FILE = "README.md"


@dataclass(frozen=True)
class HubDataset:
    """The chosen files of a data set; `revision` is the commit they are of."""

    repository: HubRepository
    revision: str
    files: tuple[HubFile, ...]

    def fetch(self, directory: Path) -> list[LocalFile]:
        """Download the files, verified, in order. Raises UserError, StorageUnavailable."""
        uri = self.repository.address.uri
        return [
            LocalFile(f"{uri}/{file.name}", self.repository.download(file, directory)) for file in self.files
        ]


def open_hub_dataset(
    uri: str, settings: DataSource, field: str, patience: Patience | None = None
) -> HubDataset:
    """Find the files of `hf://org/name[:configuration]`; `field` names the source in messages. Raises UserError."""
    hub, name, configuration = parse_hub_uri(uri)
    token = read_token(settings.token_secret_ref, field)
    address = RepositoryAddress(hub, RepositoryKind.DATASET, name, settings.revision, token, field)
    repository = HubRepository.open(address, patience)
    snapshot = repository.resolve()
    wanted = Wanted(address, configuration or settings.subset, settings.split)
    chosen = choose_dataset_files(
        wanted, (file.name for file in snapshot.files), _configurations(repository, snapshot)
    )
    files = tuple(file for file in snapshot.files if file.name in set(chosen.names))
    logger.info(
        "%s, split %s: %d files with %.1f MB, by %s",
        uri,
        wanted.split_name,
        len(files),
        sum(file.size_bytes for file in files) / 1e6,
        chosen.explanation,
    )
    return HubDataset(repository, snapshot.commit, tuple(sorted(files, key=lambda file: file.name)))


def _configurations(repository: HubRepository, snapshot: HubSnapshot) -> tuple[Configuration, ...]:
    card = snapshot.file(_CARD_FILE)
    if card is None or card.size_bytes > MAX_CARD_BYTES:
        return ()
    with tempfile.TemporaryDirectory() as folder:
        text = repository.read(card, Path(folder)).decode("utf-8", errors="replace")
    return read_configurations(text, repository.address.uri)
