"""The commit protocol of checkpoints, torch-free: data first, manifest last, only by the run's newest claimant.

Readers trust manifests only. A checkpoint's data stand in a folder of the incarnation that wrote them, so a pod that
was believed dead and wakes up can neither overwrite the files of its successor nor commit nor prune:

    checkpoints/step-00000400/manifest.json
    checkpoints/step-00000400/00003/<files>
"""

from __future__ import annotations

import logging
import shutil
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from finetune_api.base import ApiModel
from finetune_api.layout import CHECKPOINT_MANIFEST_NAME, FileEntry, RunLayout
from finetune_trainer.errors import ObjectDamaged, ObjectMissing, StorageUnavailable, Superseded
from finetune_trainer.file_entries import file_entry, file_problem
from finetune_trainer.storage import ObjectInfo, ObjectStore
from finetune_trainer.storage.locations import safe_path

logger = logging.getLogger(__name__)


class CheckpointFacts(ApiModel):
    """What the trainer knows about the state it hands over."""

    step: Annotated[int, Field(ge=0)]
    epoch: float
    loss: float | None
    world_size: Annotated[int, Field(ge=1)]
    attempt: Annotated[int, Field(ge=1)]
    incarnation: Annotated[int, Field(ge=1)]
    model_digest: str
    dataset_digest: str


class CheckpointManifest(CheckpointFacts):
    """`manifest.json` of a checkpoint: its existence is the commit."""

    schema_version: Literal[1] = 1
    run: str
    created: str
    files: tuple[FileEntry, ...]


@dataclass(frozen=True)
class CheckpointSearch:
    """The newest usable checkpoint, and why newer ones were passed over (one sentence each)."""

    manifest: CheckpointManifest | None
    passed_over: tuple[str, ...]


class CheckpointCorrupt(ObjectDamaged):
    """A committed checkpoint does not hold what its manifest says; the one before it is used."""


# --- claims ----------------------------------------------------------------------------------------------------


def claim_incarnation(store: ObjectStore, layout: RunLayout) -> int:
    """Become the run's only writer: create the next claim by conditional write and return its number, from 1."""
    # The token tells our own claim from a competitor's when the store's first answer was lost.
    token = uuid.uuid4().hex.encode()
    number = _newest_claim(store, layout) + 1
    while not store.write_bytes(layout.claim_uri(number), token, only_if_absent=True):
        number += 1
    logger.info("claimed run %s as incarnation %d", layout.run_id, number)
    return number


def ensure_not_superseded(store: ObjectStore, layout: RunLayout, incarnation: int) -> None:
    """Raise Superseded if a newer incarnation has claimed the run."""
    newest = _newest_claim(store, layout)
    if newest > incarnation:
        raise Superseded(
            f"Incarnation {newest} has taken over run {layout.run_id}; this pod is incarnation {incarnation} and "
            "writes nothing more. Nothing needs to be done."
        )


def _newest_claim(store: ObjectStore, layout: RunLayout) -> int:
    claims = (info.name for info in store.list_objects(layout.claims_uri))
    return max((int(name) for name in claims if name.isdecimal()), default=0)


# --- saving ----------------------------------------------------------------------------------------------------


def save_checkpoint(
    store: ObjectStore, layout: RunLayout, directory: Path, facts: CheckpointFacts
) -> CheckpointManifest:
    """Upload all files of `directory` and commit them. Raises Superseded if the run has a newer writer.

    Killed at any moment this leaves either a committed checkpoint or objects that no reader looks at.
    """
    ensure_not_superseded(store, layout, facts.incarnation)
    entries = tuple(file_entry(path, directory) for path in sorted(directory.rglob("*")) if path.is_file())
    data_uri = _data_uri(layout, facts.step, facts.incarnation)
    store.upload_files({f"{data_uri}/{entry.name}": directory / entry.name for entry in entries})
    manifest = CheckpointManifest(**dict(facts), run=layout.run_id, created=_now(), files=entries)
    ensure_not_superseded(store, layout, facts.incarnation)
    _commit(store, layout, manifest)
    return manifest


def _commit(store: ObjectStore, layout: RunLayout, manifest: CheckpointManifest) -> None:
    uri = _manifest_uri(layout, manifest.step)
    data = (manifest.model_dump_json(indent=2) + "\n").encode()
    if store.write_bytes(uri, data, only_if_absent=True):
        return
    # Whoever resumed before this step did so because the checkpoint that stands here is unusable. It is replaced.
    standing = _load_manifest(store, layout, manifest.step)
    if isinstance(standing, CheckpointManifest) and standing.incarnation > manifest.incarnation:
        ensure_not_superseded(store, layout, manifest.incarnation)
    logger.info(
        "replacing the checkpoint of step %d, which an earlier incarnation left unusable", manifest.step
    )
    store.delete([uri])
    if not store.write_bytes(uri, data, only_if_absent=True):
        ensure_not_superseded(store, layout, manifest.incarnation)
        raise StorageUnavailable(
            f"Could not commit {uri}: another writer was faster. The stage is tried again."
        )


# --- finding and reading ---------------------------------------------------------------------------------------


def find_newest_checkpoint(
    store: ObjectStore, layout: RunLayout, *, below_step: int | None = None
) -> CheckpointSearch:
    """Find the newest checkpoint whose manifest is committed and whose files are all there in full length."""
    passed_over: list[str] = []
    for step, objects in _checkpoints_newest_first(store, layout):
        if below_step is not None and step >= below_step:
            continue
        candidate = _candidate(store, layout, step, objects)
        if isinstance(candidate, CheckpointManifest):
            return CheckpointSearch(candidate, tuple(passed_over))
        passed_over.append(candidate)
    return CheckpointSearch(None, tuple(passed_over))


def download_checkpoint(
    store: ObjectStore, layout: RunLayout, manifest: CheckpointManifest, directory: Path
) -> None:
    """Download a checkpoint and compare every file with the manifest. Raises CheckpointCorrupt."""
    data_uri = _data_uri(layout, manifest.step, manifest.incarnation)
    try:
        store.download_folder(data_uri, directory, names=[entry.name for entry in manifest.files])
    except (ObjectMissing, ObjectDamaged) as error:
        raise CheckpointCorrupt(f"step {manifest.step}: {error.message}") from error
    for entry in manifest.files:
        if (problem := file_problem(safe_path(directory, entry.name), entry)) is not None:
            raise CheckpointCorrupt(f"step {manifest.step}: {problem}")


def restore_newest_checkpoint(store: ObjectStore, layout: RunLayout, directory: Path) -> CheckpointSearch:
    """Download the newest checkpoint that proves intact into `directory`, emptied first; fall back to older ones."""
    passed_over: list[str] = []
    below_step: int | None = None
    while True:
        search = find_newest_checkpoint(store, layout, below_step=below_step)
        passed_over.extend(search.passed_over)
        if search.manifest is None:
            return CheckpointSearch(None, tuple(passed_over))
        _empty(directory)
        try:
            download_checkpoint(store, layout, search.manifest, directory)
        except CheckpointCorrupt as error:
            passed_over.append(error.message)
            below_step = search.manifest.step
        else:
            return CheckpointSearch(search.manifest, tuple(passed_over))


# --- pruning ---------------------------------------------------------------------------------------------------


def prune_checkpoints(store: ObjectStore, layout: RunLayout, keep_last: int, incarnation: int) -> list[int]:
    """Remove what is no longer needed and return the steps that are kept, the newest first.

    Kept are the `keep_last` newest complete checkpoints; of the rest only what is older than the newest one or was
    left unfinished by an earlier incarnation goes. Without a complete checkpoint nothing is removed.
    """
    ensure_not_superseded(store, layout, incarnation)
    found = _checkpoints_newest_first(store, layout)
    candidates = {step: _candidate(store, layout, step, objects) for step, objects in found}
    kept = [step for step, manifest in candidates.items() if isinstance(manifest, CheckpointManifest)][
        :keep_last
    ]
    if not kept:
        return []
    for step, objects in found:
        if step not in kept:
            removable = (
                objects
                if step < kept[0]
                else [info for info in objects if _is_from_before(info, incarnation)]
            )
            _remove_checkpoint(store, layout, step, removable)
    return kept


def _is_from_before(info: ObjectInfo, incarnation: int) -> bool:
    writer = info.name.split("/")[1]
    return writer.isdecimal() and int(writer) < incarnation


def _remove_checkpoint(
    store: ObjectStore, layout: RunLayout, step: int, objects: Iterable[ObjectInfo]
) -> None:
    # Manifest first: half-removed must mean uncommitted.
    manifest_uri = _manifest_uri(layout, step)
    uris = [info.uri for info in objects]
    store.delete([uri for uri in uris if uri == manifest_uri])
    store.delete([uri for uri in uris if uri != manifest_uri])


# --- inner steps -----------------------------------------------------------------------------------------------


def _data_uri(layout: RunLayout, step: int, incarnation: int) -> str:
    return f"{layout.checkpoint_uri(step)}/{incarnation:05d}"


def _manifest_uri(layout: RunLayout, step: int) -> str:
    return f"{layout.checkpoint_uri(step)}/{CHECKPOINT_MANIFEST_NAME}"


def _checkpoints_newest_first(store: ObjectStore, layout: RunLayout) -> list[tuple[int, list[ObjectInfo]]]:
    by_step: dict[int, list[ObjectInfo]] = {}
    for info in store.list_objects(layout.checkpoints_uri):
        folder, _, rest = info.name.partition("/")
        number = folder.removeprefix("step-")
        if rest and number.isdecimal():
            by_step.setdefault(int(number), []).append(info)
    return sorted(by_step.items(), reverse=True)


def _candidate(
    store: ObjectStore, layout: RunLayout, step: int, objects: list[ObjectInfo]
) -> CheckpointManifest | str:
    """The manifest of a checkpoint whose files are there, or the reason why it cannot be used."""
    if _manifest_uri(layout, step) not in {info.uri for info in objects}:
        return f"step {step} has no manifest: it was never committed"
    manifest = _load_manifest(store, layout, step)
    if isinstance(manifest, str):
        return manifest
    sizes = {info.uri: info.size_bytes for info in objects}
    data_uri = _data_uri(layout, step, manifest.incarnation)
    for entry in manifest.files:
        size_bytes = sizes.get(f"{data_uri}/{entry.name}")
        if size_bytes is None:
            return f"step {step}: {entry.name} is missing"
        if size_bytes != entry.size_bytes:
            return f"step {step}: {entry.name} has {size_bytes} bytes, its manifest says {entry.size_bytes}"
    return manifest


def _load_manifest(store: ObjectStore, layout: RunLayout, step: int) -> CheckpointManifest | str:
    try:
        data = store.read_bytes(_manifest_uri(layout, step))
        manifest = CheckpointManifest.model_validate_json(data)
    except ObjectMissing:
        return f"step {step} has no manifest: it was never committed"
    except ValidationError:
        return f"step {step}: its manifest cannot be read"
    if manifest.run != layout.run_id or manifest.step != step:
        return f"step {step}: its manifest is that of step {manifest.step} of run {manifest.run}"
    return manifest


def _empty(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
