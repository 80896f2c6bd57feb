"""What stands where the model shall go, and how it gets there: staged beside it, verified, then renamed."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from finetune_api.layout import (
    ARTIFACT_MANIFEST_NAME,
    MODEL_CARD_NAME,
    ArtifactManifest,
    FileEntry,
)
from finetune_cli.downloads import PartialFile, is_intact
from finetune_cli.errors import CommandError


def is_in_place(target: Path, manifest_bytes: bytes, manifest: ArtifactManifest) -> bool:
    """Whether an earlier pull put this very model there, and it still is what it was."""
    here = target / ARTIFACT_MANIFEST_NAME
    if not here.is_file() or here.read_bytes() != manifest_bytes:
        return False
    return all(is_intact(target / entry.name, entry) for entry in manifest.files)


def check_replaceable(target: Path) -> None:
    """Refuse to write over anything that an earlier pull did not put there."""
    if not target.exists():
        return
    strangers = _strangers(target) if target.is_dir() else [target.name]
    if strangers:
        raise CommandError(
            f"{target} holds '{strangers[0]}', which `finetune pull` did not put there. "
            "Choose another folder with --output, or remove it."
        )


def _strangers(folder: Path) -> list[str]:
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    try:
        content = (folder / ARTIFACT_MANIFEST_NAME).read_bytes()
        manifest = ArtifactManifest.model_validate_json(content, extra="ignore")
    except (FileNotFoundError, ValidationError):
        return sorted(found)
    return sorted(
        found - {ARTIFACT_MANIFEST_NAME, MODEL_CARD_NAME, *(entry.name for entry in manifest.files)}
    )


def check_free_disk(target: Path, missing_bytes: int) -> None:
    """Refuse before the first byte what will not fit."""
    free_bytes = shutil.disk_usage(target.absolute().parent).free
    if free_bytes < missing_bytes:
        raise CommandError(
            f"{missing_bytes / 1e9:.1f} GB are still to come, but only {free_bytes / 1e9:.1f} GB are free where "
            f"{target} would stand. Make room, or choose another folder with --output."
        )


@dataclass(frozen=True)
class Staging:
    """The hidden folder beside the target where files wait until all of them are verified."""

    folder: Path

    @classmethod
    def beside(cls, target: Path, manifest_bytes: bytes) -> Staging:
        """Take up an earlier try for the same manifest; remove those for others."""
        absolute = target.absolute()
        own = absolute.with_name(f"{_prefix(absolute)}{hashlib.sha256(manifest_bytes).hexdigest()[:12]}")
        absolute.parent.mkdir(parents=True, exist_ok=True)
        for path in absolute.parent.iterdir():
            if path.name.startswith(_prefix(absolute)) and path != own:
                shutil.rmtree(path)
        return cls(own)

    def partial_file(self, folder_uri: str, entry: FileEntry) -> PartialFile:
        """Say where a file of the manifest comes from and waits. The manifest's names cannot leave the folder."""
        return PartialFile(
            uri=f"{folder_uri}/{entry.name}",
            entry=entry,
            path=self.folder / "files" / entry.name,
            journal=self.folder / "parts" / entry.name,
        )

    def add_card(self, content: bytes) -> None:
        """Put the model card beside the files. No manifest names it: equal models have different cards."""
        (self.folder / "files").mkdir(parents=True, exist_ok=True)
        (self.folder / "files" / MODEL_CARD_NAME).write_bytes(content)

    def put_in_place(self, target: Path, manifest_bytes: bytes) -> None:
        """Rename the finished folder to the target; what an earlier pull had put there goes."""
        files, earlier = self.folder / "files", self.folder / "replaced"
        files.mkdir(parents=True, exist_ok=True)
        (files / ARTIFACT_MANIFEST_NAME).write_bytes(manifest_bytes)
        absolute = target.absolute()
        if absolute.exists():
            absolute.rename(earlier)
        files.rename(absolute)
        shutil.rmtree(self.folder)


def _prefix(target: Path) -> str:
    return f".{target.name}.partial-"
