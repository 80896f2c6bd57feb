"""The commit protocol of checkpoints, torch-free: data first, manifest last, only by the run's newest claimant.

Readers trust manifests only. Everything of a checkpoint stands in a folder of the incarnation that wrote it, so each
key has one writer, and a pod that was believed dead and wakes up can overwrite nothing of its successor's:

    checkpoints/step-00000400/00003/<files>         uploaded by the pod whose ranks filled them
    checkpoints/step-00000400/00003/parts/00001     what pod 1 has uploaded: sizes and digests
    checkpoints/step-00000400/00003/manifest.json   written last, by the first pod: the commit
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from finetune_api.base import ApiModel
from finetune_api.layout import CHECKPOINT_MANIFEST_NAME, RunLayout
from finetune_trainer.checkpoint_files import Split
from finetune_trainer.claims import Claims, ensure_not_superseded, load_claims
from finetune_trainer.errors import CheckpointCorrupt, ObjectDamaged, ObjectMissing
from finetune_trainer.file_entries import CheckpointFile, checkpoint_file
from finetune_trainer.storage import ObjectInfo, ObjectStore
from finetune_trainer.storage.locations import safe_path

logger = logging.getLogger(__name__)

_PARTS = "parts"
# Of what a pod was saving when it was killed: nothing that anybody has to know.
NEVER_COMMITTED = "has no manifest: it was never committed"


class CheckpointFacts(ApiModel):
    """What the trainer knows about the state it hands over."""

    step: Annotated[int, Field(ge=0)]
    epoch: float
    loss: float | None
    # On the validation rows, where they were evaluated after this very step.
    eval_loss: float | None = None
    world_size: Annotated[int, Field(ge=1)]
    split: Split = Split.NOTHING
    attempt: Annotated[int, Field(ge=1)]
    incarnation: Annotated[int, Field(ge=1)]
    model_digest: str
    dataset_digest: str
    # Of what defines the mathematics; and the releases that computed it, by package.
    config_digest: str = ""
    versions: dict[str, str] = Field(default_factory=dict)


class CheckpointManifest(CheckpointFacts):
    """`manifest.json` of a checkpoint: its existence is the commit.

    The position in the data follows from `step`: which rows a step has is a function of it and of the seed.
    """

    schema_version: Literal[3] = 3
    run: str
    created: str
    files: tuple[CheckpointFile, ...]

    @property
    def size_bytes(self) -> int:
        """All files together."""
        return sum(entry.size_bytes for entry in self.files)


class Part(ApiModel):
    """What one pod has uploaded."""

    files: tuple[CheckpointFile, ...]


@dataclass(frozen=True)
class CheckpointSearch:
    """The newest usable checkpoint, and why newer ones were passed over (one sentence each)."""

    manifest: CheckpointManifest | None
    passed_over: tuple[str, ...]


class Withdrawn(Exception):
    """The state is no longer the one to save."""


@dataclass(frozen=True)
class Place:
    """Where one incarnation's checkpoint of a step stands."""

    layout: RunLayout
    step: int
    incarnation: int

    @property
    def uri(self) -> str:
        """Its folder."""
        return f"{self.layout.checkpoint_uri(self.step)}/{self.incarnation:05d}"

    @property
    def manifest_uri(self) -> str:
        """Its manifest."""
        return f"{self.uri}/{CHECKPOINT_MANIFEST_NAME}"

    def part_uri(self, node: int) -> str:
        """What a pod says that it has uploaded."""
        return f"{self.uri}/{_PARTS}/{node:05d}"


def place_of(layout: RunLayout, manifest: CheckpointManifest) -> Place:
    """Where a checkpoint stands."""
    return Place(layout, manifest.step, manifest.incarnation)


# --- saving ----------------------------------------------------------------------------------------------------


def upload_files(
    store: ObjectStore, place: Place, files: Mapping[str, Path], is_withdrawn: Callable[[], bool]
) -> tuple[CheckpointFile, ...]:
    """Upload files under their names and return their sizes and digests; both are read at the same time.

    Raises Withdrawn, also where the files began to change meanwhile: who changes them withdraws them before.
    """
    if is_withdrawn():
        raise Withdrawn
    with ThreadPoolExecutor(1, thread_name_prefix="digests") as hashing:
        entries = {name: hashing.submit(checkpoint_file, name, path) for name, path in files.items()}
        try:
            store.upload_files(
                {f"{place.uri}/{name}": path for name, path in files.items()}, is_cancelled=is_withdrawn
            )
        finally:
            if is_withdrawn():
                hashing.shutdown(cancel_futures=True)
        if is_withdrawn():
            raise Withdrawn
        found = [entry.result() for entry in entries.values()]
    if is_withdrawn():
        raise Withdrawn
    return tuple(sorted(found, key=lambda entry: entry.name))


def write_part(store: ObjectStore, place: Place, node: int, entries: tuple[CheckpointFile, ...]) -> None:
    """Say what a pod has uploaded."""
    store.write_bytes(place.part_uri(node), Part(files=entries).model_dump_json().encode())


def read_parts(store: ObjectStore, place: Place, nodes: int) -> tuple[CheckpointFile, ...] | None:
    """What all pods but the first have uploaded; None while one has not said so."""
    if nodes == 1:
        return ()
    there = {info.uri for info in store.list_objects(f"{place.uri}/{_PARTS}")}
    uris = [place.part_uri(node) for node in range(1, nodes)]
    if not there.issuperset(uris):
        return None
    parts = [Part.model_validate_json(store.read_bytes(uri)) for uri in uris]
    return tuple(entry for part in parts for entry in part.files)


def load_committed(store: ObjectStore, place: Place) -> CheckpointManifest | None:
    """The manifest that stands there; None before the commit."""
    found = _load_manifest(store, place)
    return found if isinstance(found, CheckpointManifest) else None


def commit_checkpoint(
    store: ObjectStore, layout: RunLayout, facts: CheckpointFacts, entries: Iterable[CheckpointFile]
) -> CheckpointManifest:
    """Declare a checkpoint whose files are uploaded. Raises Superseded if the run has a newer writer.

    Killed at any moment this leaves either a committed checkpoint or objects that no reader looks at.
    """
    place = Place(layout, facts.step, facts.incarnation)
    manifest = CheckpointManifest(
        **dict(facts),
        run=layout.run_id,
        created=_now(),
        files=tuple(sorted(entries, key=lambda entry: entry.name)),
    )
    sizes = {info.name: info.size_bytes for info in store.list_objects(place.uri)}
    if (problem := _incomplete(manifest, sizes)) is not None:
        raise ObjectDamaged(f"{place.uri} is not what was uploaded: {problem}. It is uploaded again.")
    ensure_not_superseded(store, layout, facts.incarnation)
    store.write_bytes(place.manifest_uri, (manifest.model_dump_json(indent=2) + "\n").encode())
    return manifest


# --- finding and reading ---------------------------------------------------------------------------------------


def find_newest_checkpoint(
    store: ObjectStore, layout: RunLayout, *, passed_over: Mapping[Place, str] | None = None
) -> CheckpointSearch:
    """Find the newest checkpoint whose manifest is committed and whose files are all there in full length.

    `passed_over`: checkpoints that have proved unusable, and why.
    """
    reasons: list[str] = []
    claims = load_claims(store, layout)
    for place, objects in checkpoints_newest_first(store, layout):
        known = (passed_over or {}).get(place)
        candidate = known or load_usable(store, place, objects, claims)
        if isinstance(candidate, CheckpointManifest):
            return CheckpointSearch(candidate, tuple(reasons))
        reasons.append(candidate)
    return CheckpointSearch(None, tuple(reasons))


def download_checkpoint(
    store: ObjectStore,
    layout: RunLayout,
    manifest: CheckpointManifest,
    directory: Path,
    *,
    wanted: Callable[[str], bool] = lambda name: True,
) -> None:
    """Download the wanted files and compare each with the manifest as it arrives. Raises CheckpointCorrupt."""
    place = place_of(layout, manifest)
    entries = {f"{place.uri}/{entry.name}": entry for entry in manifest.files if wanted(entry.name)}
    try:
        crcs = store.download_with_crcs(
            {uri: safe_path(directory, entry.name) for uri, entry in entries.items()}
        )
    except (ObjectMissing, ObjectDamaged) as error:
        raise CheckpointCorrupt(f"step {manifest.step}: {error.message}") from error
    for uri, entry in entries.items():
        if crcs[uri] != entry.crc64nvme:
            raise CheckpointCorrupt(
                f"step {manifest.step}: {entry.name} does not have the CRC64-NVME of its manifest"
            )


def restore_newest_checkpoint(
    store: ObjectStore,
    layout: RunLayout,
    directory: Path,
    *,
    wanted: Callable[[CheckpointManifest], Callable[[str], bool]] = lambda manifest: lambda name: True,
    unusable: Mapping[Place, str] = MappingProxyType({}),
) -> CheckpointSearch:
    """Download the newest checkpoint that proves intact into `directory`, emptied first; fall back to older ones.

    `wanted` says of a checkpoint which of its files are; `unusable`, which ones have proved so elsewhere, and why.
    """
    found_unusable = dict(unusable)
    while True:
        search = find_newest_checkpoint(store, layout, passed_over=found_unusable)
        if search.manifest is None:
            return search
        _empty(directory)
        try:
            download_checkpoint(store, layout, search.manifest, directory, wanted=wanted(search.manifest))
        except CheckpointCorrupt as error:
            found_unusable[place_of(layout, search.manifest)] = error.message
        else:
            return search


def checkpoints_newest_first(
    store: ObjectStore, layout: RunLayout
) -> Iterator[tuple[Place, list[ObjectInfo]]]:
    """What stands below checkpoints/, the newest step first, of one step the newest incarnation first."""
    found: dict[Place, list[ObjectInfo]] = {}
    for info in store.list_objects(layout.checkpoints_uri):
        if (place := parse_place(layout, info.name)) is not None:
            found.setdefault(place, []).append(info)
    for place in sorted(found, key=lambda place: (-place.step, -place.incarnation)):
        yield place, found[place]


def parse_place(layout: RunLayout, name: str) -> Place | None:
    """The checkpoint that an object below checkpoints/ belongs to."""
    step, _, rest = name.removeprefix("step-").partition("/")
    incarnation, _, file = rest.partition("/")
    if not (name.startswith("step-") and step.isdecimal() and incarnation.isdecimal() and file):
        return None
    return Place(layout, int(step), int(incarnation))


def load_usable(
    store: ObjectStore, place: Place, objects: list[ObjectInfo], claims: Claims
) -> CheckpointManifest | str:
    """The manifest of a checkpoint whose files are there, or the reason why it cannot be used."""
    if place.manifest_uri not in {info.uri for info in objects}:
        return f"step {place.step} {NEVER_COMMITTED}"
    successor_start = claims.successor_start(place.incarnation)
    if successor_start is not None and successor_start < place.step:
        return (
            f"step {place.step} was committed by incarnation {place.incarnation} after a newer one had gone on from "
            f"step {successor_start}"
        )
    manifest = _load_manifest(store, place)
    if isinstance(manifest, str):
        return manifest
    prefix = f"{place.uri}/"
    sizes = {info.uri.removeprefix(prefix): info.size_bytes for info in objects}
    problem = _incomplete(manifest, sizes)
    return manifest if problem is None else f"step {place.step}: {problem}"


# --- inner steps -----------------------------------------------------------------------------------------------


def _incomplete(manifest: CheckpointManifest, sizes: Mapping[str, int]) -> str | None:
    for entry in manifest.files:
        size_bytes = sizes.get(entry.name)
        if size_bytes is None:
            return f"{entry.name} is missing"
        if size_bytes != entry.size_bytes:
            return f"{entry.name} has {size_bytes} bytes, its manifest says {entry.size_bytes}"
    return None


def _load_manifest(store: ObjectStore, place: Place) -> CheckpointManifest | str:
    step = place.step
    try:
        manifest = CheckpointManifest.model_validate_json(store.read_bytes(place.manifest_uri))
    except ObjectMissing:
        return f"step {step} {NEVER_COMMITTED}"
    except (ValidationError, ObjectDamaged):
        return f"step {step}: its manifest cannot be read"
    if (manifest.run, manifest.step, manifest.incarnation) != (place.layout.run_id, step, place.incarnation):
        return (
            f"step {step}: its manifest is that of step {manifest.step} of run {manifest.run}, by incarnation "
            f"{manifest.incarnation}"
        )
    return manifest


def _empty(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
