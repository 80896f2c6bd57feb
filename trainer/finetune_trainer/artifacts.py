"""Finished folders in the store: trained/, adapter/, merged/. Files first, a manifest with their digests last."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from finetune_api.layout import ArtifactManifest
from finetune_trainer.errors import ObjectMissing, StorageUnavailable
from finetune_trainer.file_entries import file_entry, file_problem
from finetune_trainer.storage import ObjectStore
from finetune_trainer.storage.locations import safe_path


def describe_folder(directory: Path, *, kind: str) -> ArtifactManifest:
    """Hash every file of a folder; sorted by name."""
    entries = (file_entry(path, directory) for path in sorted(directory.rglob("*")) if path.is_file())
    return ArtifactManifest(kind=kind, files=tuple(entries))


def upload_folder(store: ObjectStore, folder_uri: str, directory: Path) -> None:
    """Upload every file of a folder."""
    paths = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    store.upload_files({f"{folder_uri}/{path.relative_to(directory).as_posix()}": path for path in paths})


def encode_manifest(manifest: ArtifactManifest) -> bytes:
    """The manifest's bytes: equal for equal files."""
    return (manifest.model_dump_json(indent=2) + "\n").encode()


def load_manifest(store: ObjectStore, folder_uri: str, manifest_name: str) -> ArtifactManifest | None:
    """Read a folder's manifest; None where the folder is not finished."""
    try:
        return ArtifactManifest.model_validate_json(store.read_bytes(f"{folder_uri}/{manifest_name}"))
    except (ObjectMissing, ValidationError):
        return None


def download_artifact(
    store: ObjectStore, folder_uri: str, manifest: ArtifactManifest, directory: Path
) -> None:
    """Download a finished folder and compare every file with its manifest."""
    store.download_folder(folder_uri, directory, names=[entry.name for entry in manifest.files])
    for entry in manifest.files:
        if (problem := file_problem(safe_path(directory, entry.name), entry)) is not None:
            raise StorageUnavailable(
                f"{folder_uri} is not what was written there: {problem}. The stage is tried again; if this repeats, "
                "check the store, then delete and re-apply the FineTuneJob."
            )
