"""Brings the base model into the store: once for all jobs, by content, file by file, verified, the manifest last.

GPU pods then need neither internet nor a hub's token. A model that is in the store already is not fetched again, and
what a killed attempt brought is not fetched a second time:

    models/<digest>/<files>        as save_pretrained writes them
    models/<digest>/arrivals.json  what stands there so far, while the manifest does not
    models/<digest>/manifest.json  all files with size and SHA-256: its existence is the commit
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from finetune_api.base import ApiModel
from finetune_api.layout import FileEntry, RunLayout, Sha256
from finetune_api.spec import FineTuneJobSpec, Model, Store
from finetune_trainer.capacity import bytes_of
from finetune_trainer.errors import ObjectMissing, StorageUnavailable, UserError
from finetune_trainer.file_entries import missing_objects, sha256_of_file
from finetune_trainer.hubs import HubRepository, RepositoryAddress, RepositoryKind
from finetune_trainer.hubs.address import parse_hub_uri
from finetune_trainer.hubs.retrying import Patience
from finetune_trainer.hubs.tokens import read_token
from finetune_trainer.model_files import StoredFolder
from finetune_trainer.model_folder import DeclaredModel, ModelFolder, read_declared_model, read_text_file
from finetune_trainer.model_origins import BASE_MODEL, ClaimModel, FolderKind, HubModel, ModelOrigin
from finetune_trainer.storage import ObjectStore

logger = logging.getLogger(__name__)

MODEL_MANIFEST_NAME = "manifest.json"
ARRIVALS_NAME = "arrivals.json"
STORE_SCHEME, _CLAIM_SCHEME = "s3://", "pvc://"

StoreOpener = Callable[[Store], ObjectStore]


@dataclass(frozen=True)
class StoredModel:
    """Where the base model's files stand for every later pod; `origin` is how the job names it."""

    uri: str
    store: Store
    revision: str | None
    origin: str


class ModelManifest(ApiModel):
    """`manifest.json`: equal bytes for equal models, wherever they came from."""

    schema_version: Literal[1] = 1
    digest: Sha256
    files: tuple[FileEntry, ...]


class Arrival(ApiModel):
    """A file that was brought, and the object that it became."""

    file: FileEntry
    etag: str


class Arrivals(ApiModel):
    """`arrivals.json`."""

    schema_version: Literal[1] = 1
    arrived: tuple[Arrival, ...] = ()


def base_model_store(spec: FineTuneJobSpec) -> Store:
    """The store that every pod reads the base model from."""
    if spec.model.source.startswith(STORE_SCHEME) and spec.model.store is not None:
        return spec.model.store
    return spec.output.store


def ensure_base_model(
    spec: FineTuneJobSpec,
    layout: RunLayout,
    open_store: StoreOpener,
    work: Path,
    patience: Patience | None = None,
) -> StoredModel:
    """Make sure that the base model is in the store, and say where. Raises UserError, StorageUnavailable."""
    return find_base_model(spec, layout, open_store, work, patience).ensure_stored()


def find_base_model(
    spec: FineTuneJobSpec,
    layout: RunLayout,
    open_store: StoreOpener,
    work: Path,
    patience: Patience | None = None,
) -> FoundModel:
    """Find the base model and look at what it declares; weights stay where they are. Raises UserError.

    A model that is in the store by its source, or by an earlier job, is read there. `work` is a folder of the pod's
    own disk.
    """
    source, settings = spec.model.source.rstrip("/"), base_model_store(spec)
    store = open_store(settings)
    if source.startswith(STORE_SCHEME):
        return FoundModel(StoredModel(source, settings, None, source), store, StoredFolder(store, source))
    origin = open_origin(spec.model, source, BASE_MODEL, work / "arriving", patience)
    uri = layout.models_uri(origin.digest)
    stored = StoredModel(uri, settings, origin.revision, source)
    if is_complete(store, uri, origin.digest):
        logger.info("%s is in the store already: using %s", origin.origin, uri)
        return FoundModel(stored, store, StoredFolder(store, uri, source))
    declared = read_declared_model(origin)
    _refuse_odd_names(origin, declared.files)
    _refuse_small_disk(spec, origin, declared.files)
    return FoundModel(stored, store, origin, origin)


@dataclass(frozen=True)
class FoundModel:
    """A base model whose small files can be read; `origin` is set while its weights are not in the store."""

    stored: StoredModel
    store: ObjectStore
    folder: ModelFolder
    origin: ModelOrigin | None = None

    @property
    def is_stored(self) -> bool:
        """Whether later pods can read it already."""
        return self.origin is None

    @cached_property
    def declared(self) -> DeclaredModel:
        """What config.json and index say. Raises UserError for a model that cannot be tuned."""
        return read_declared_model(self.folder)

    def fetch(self, names: Sequence[str], directory: Path) -> None:
        """Write those of the named small files that there are into a folder."""
        directory.mkdir(parents=True, exist_ok=True)
        for name in names:
            if name in self.folder.sizes:
                (directory / name).write_bytes(read_text_file(self.folder, name))

    def ensure_stored(self) -> StoredModel:
        """Bring the weights into the store, unless they are there."""
        if self.origin is not None:
            names, uri, digest = self.declared.files, self.stored.uri, self.origin.digest
            bring_model(self.origin, names, self.store, uri, digest)
        return self.stored


def is_complete(store: ObjectStore, uri: str, digest: str) -> bool:
    """Whether the model of that digest stands there with all its files in full length."""
    try:
        manifest = ModelManifest.model_validate_json(store.read_bytes(f"{uri}/{MODEL_MANIFEST_NAME}"))
    except (ObjectMissing, ValidationError):
        return False
    return manifest.digest == digest and not missing_objects(store, uri, manifest.files)


def bring_model(origin: ModelOrigin, names: Sequence[str], store: ObjectStore, uri: str, digest: str) -> None:
    """Bring these files one by one and commit them."""
    logger.info("bringing %s into the store at %s: %d files", origin.origin, uri, len(names))
    arrivals = _load_arrivals(store, uri)
    for name in names:
        if is_complete(store, uri, digest):
            logger.info("another job has brought %s meanwhile", origin.origin)
            return
        arrivals[name] = _known(origin, arrivals.get(name)) or _bring_file(origin, store, uri, name)
        _save_arrivals(store, uri, arrivals.values())
    entries = tuple(arrivals[name].file for name in names)
    _commit(store, uri, ModelManifest(digest=digest, files=entries))


# --- files -----------------------------------------------------------------------------------------------------


def _bring_file(origin: ModelOrigin, store: ObjectStore, uri: str, name: str) -> Arrival:
    """Fetch, verify, upload, and make room again."""
    path = origin.bring(name)
    entry = FileEntry(
        name=name,
        size_bytes=origin.sizes[name],
        sha256=origin.sha256_of(name) or sha256_of_file(path),
    )
    store.upload_file(path, f"{uri}/{name}")
    origin.let_go(name)
    return Arrival(file=entry, etag=_uploaded(store, uri, entry))


def _uploaded(store: ObjectStore, uri: str, entry: FileEntry) -> str:
    for info in store.list_objects(uri):
        if info.name == entry.name and info.size_bytes == entry.size_bytes:
            return info.etag
    raise _gone(uri, entry.name)


def _commit(store: ObjectStore, uri: str, manifest: ModelManifest) -> None:
    if missing := missing_objects(store, uri, manifest.files):
        raise _gone(uri, missing[0])
    data, manifest_uri = (manifest.model_dump_json(indent=2) + "\n").encode(), f"{uri}/{MODEL_MANIFEST_NAME}"
    if not store.write_bytes(manifest_uri, data, only_if_absent=True):
        # Another job's would have been the same bytes: this one is of an attempt whose files were lost.
        store.write_bytes(manifest_uri, data)
    store.delete([f"{uri}/{ARRIVALS_NAME}"])
    logger.info("all files are in the store at %s", uri)


def _gone(uri: str, name: str) -> StorageUnavailable:
    return StorageUnavailable(
        f"{uri}/{name} was uploaded and is not there in full length. The stage is tried again; if this repeats, look "
        "at the bucket's rules for the life of objects."
    )


# --- what an earlier attempt brought ---------------------------------------------------------------------------


def _load_arrivals(store: ObjectStore, uri: str) -> dict[str, Arrival]:
    """The files that still are the very objects that were verified and uploaded."""
    try:
        saved = Arrivals.model_validate_json(store.read_bytes(f"{uri}/{ARRIVALS_NAME}")).arrived
    except (ObjectMissing, ValidationError):
        return {}
    objects = {(info.name, info.size_bytes, info.etag) for info in store.list_objects(uri)}
    arrived = {each.file.name: each for each in saved}
    return {
        name: each for name, each in arrived.items() if (name, each.file.size_bytes, each.etag) in objects
    }


def _known(origin: ModelOrigin, arrival: Arrival | None) -> Arrival | None:
    """An arrival that certainly is the origin's file: the origin's SHA-256 is known and the same."""
    if arrival is None or origin.sha256_of(arrival.file.name) != arrival.file.sha256:
        return None
    logger.info("%s was brought by an earlier attempt", arrival.file.name)
    return arrival


def _save_arrivals(store: ObjectStore, uri: str, arrived: Iterable[Arrival]) -> None:
    arrivals = Arrivals(arrived=tuple(arrived))
    store.write_bytes(f"{uri}/{ARRIVALS_NAME}", arrivals.model_dump_json(indent=2).encode())


# --- the origin ------------------------------------------------------------------------------------------------


def open_origin(
    model: Model, source: str, kind: FolderKind, directory: Path, patience: Patience | None
) -> ModelOrigin:
    """Look at a folder of a hub or a claim. model.revision is that of model.source alone."""
    if source.startswith(_CLAIM_SCHEME):
        return ClaimModel(source, kind)
    hub, name, _ = parse_hub_uri(source)
    token = read_token(model.token_secret_ref, "model")
    revision = model.revision if kind is BASE_MODEL else None
    address = RepositoryAddress(hub, RepositoryKind.MODEL, name, revision, token)
    return HubModel(HubRepository.open(address, patience), directory, kind)


def _refuse_odd_names(origin: ModelOrigin, names: Sequence[str]) -> None:
    for name in names:
        try:
            FileEntry(name=name, size_bytes=0, sha256="0" * 64)
        except ValidationError as error:
            raise UserError(
                f"{origin.origin} has a file named {name!r}; only letters, digits, '.', '_' and '-' are kept. Rename "
                "it, in the index too, or set model.source to another model."
            ) from error


def _refuse_small_disk(spec: FineTuneJobSpec, origin: ModelOrigin, names: Sequence[str]) -> None:
    if isinstance(origin, ClaimModel):
        return  # Uploaded from where it is.
    largest = max(names, key=lambda name: origin.sizes[name])
    quantity = spec.resources.prepare.ephemeral_storage
    if origin.sizes[largest] > bytes_of(quantity):
        raise UserError(
            f"resources.prepare.ephemeralStorage {quantity} is too small: {largest} of {origin.origin} alone has "
            f"{origin.sizes[largest] / 1024**3:.1f} GiB, and files pass through the prepare pod's disk one by one. "
            "Raise it, with room for the data."
        )
