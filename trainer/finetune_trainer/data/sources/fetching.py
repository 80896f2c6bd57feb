"""Every source of a data set, brought to the pod's disk: training, validation and test sources, in this order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from finetune_api.spec import Dataset, DataSource, Store
from finetune_trainer.data.files import file_names
from finetune_trainer.data.files.compression import unpack_file
from finetune_trainer.data.files.containers import is_compressed_columnar
from finetune_trainer.data.rows import Split
from finetune_trainer.data.sources.claims import claim_files
from finetune_trainer.data.sources.config_maps import config_map_file
from finetune_trainer.data.sources.local import LocalFile, LocalSource
from finetune_trainer.data.sources.object_store import fetch_objects
from finetune_trainer.errors import UserError

if TYPE_CHECKING:  # boto3 would be imported wherever rows are read
    from finetune_trainer.storage import ObjectStore

StoreOpener = Callable[[Store], "ObjectStore"]


class HubDataset(Protocol):
    """A data set of a hub, at one commit."""

    def fetch(self, directory: Path) -> list[LocalFile]:
        """Bring its files into a folder."""


class HubOpener(Protocol):
    """Finds a data set by its URI and the settings of the source; `field` is for messages."""

    def __call__(self, uri: str, settings: DataSource, field: str) -> HubDataset:
        """Ask the hub what there is. Raises UserError for what it does not have or give."""


@dataclass(frozen=True)
class _Wanted:
    field: str
    settings: DataSource
    split: Split


@dataclass(frozen=True)
class _Openers:
    default_store: Store
    open_store: StoreOpener
    open_hub: HubOpener


def fetch_sources(
    dataset: Dataset, default_store: Store, open_store: StoreOpener, open_hub: HubOpener, directory: Path
) -> list[LocalSource]:
    """Bring every source into folders of `directory`. Raises UserError for what does not exist or is never read."""
    openers = _Openers(default_store, open_store, open_hub)
    wanted = list(_wanted(dataset))
    for each in wanted:
        _refuse_unreadable_name(each)
    return [_fetch(each, openers, directory / str(number)) for number, each in enumerate(wanted)]


def _wanted(dataset: Dataset) -> Iterator[_Wanted]:
    for number, settings in enumerate(dataset.train):
        yield _Wanted(f"dataset.train[{number}]", settings, Split.TRAIN)
    validation = dataset.validation.sources if dataset.validation else None
    for number, settings in enumerate(validation or []):
        yield _Wanted(f"dataset.validation.sources[{number}]", settings, Split.VALIDATION)
    for number, settings in enumerate(dataset.test or []):
        yield _Wanted(f"dataset.test[{number}]", settings, Split.TEST)


def _refuse_unreadable_name(wanted: _Wanted) -> None:
    """Said before the first byte is fetched."""
    uri = wanted.settings.source
    is_file = (
        uri is not None and uri.startswith(("s3://", "pvc://", "configMap://")) and not uri.endswith("/")
    )
    if uri is not None and is_file and file_names.is_never_rows(uri):
        raise UserError(
            f"{wanted.field}.source {uri} ends with {file_names.kind_suffix(uri)}, which is not read. "
            f"Convert it to one of {file_names.READABLE_NAMES}."
        )


def _fetch(wanted: _Wanted, openers: _Openers, directory: Path) -> LocalSource:
    uri = wanted.settings.source
    if uri is None:
        return LocalSource(f"{wanted.field}.inline", wanted.field, wanted.settings, wanted.split, ())
    files = _fetch_files(uri, wanted, openers, directory / "fetched")
    unpacked = tuple(
        unpack_columnar(file, directory / "unpacked" / str(number)) for number, file in enumerate(files)
    )
    return LocalSource(uri, wanted.field, wanted.settings, wanted.split, unpacked)


def _fetch_files(uri: str, wanted: _Wanted, openers: _Openers, directory: Path) -> list[LocalFile]:
    field, settings = wanted.field, wanted.settings
    if uri.startswith("s3://"):
        store = openers.open_store(settings.store or openers.default_store)
        return fetch_objects(store, uri, field, directory)
    if uri.startswith("pvc://"):
        return claim_files(uri, field)
    if uri.startswith("configMap://"):
        return [config_map_file(uri, f"{field}.source")]
    directory.mkdir(parents=True, exist_ok=True)
    return list(openers.open_hub(uri, settings, field).fetch(directory))


def unpack_columnar(file: LocalFile, target: Path) -> LocalFile:
    """The file itself, or, of a compressed one that is read from its end, an unpacked copy at `target`."""
    # Here and not when rows are read: they are read more than once.
    if not is_compressed_columnar(file.label, file.path):
        return file
    target.parent.mkdir(parents=True, exist_ok=True)
    unpack_file(file.label, file.path, target)
    return replace(file, path=target)
