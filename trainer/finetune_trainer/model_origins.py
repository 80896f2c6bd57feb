"""Base models, and earlier adapters, that are not in the store yet: at a hub, at one commit, or in a mounted claim.

All are ModelFolders, so that config.json and index are checked before a weight moves.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from finetune_api import names
from finetune_trainer.errors import UserError
from finetune_trainer.file_entries import sha256_of_file
from finetune_trainer.hubs import HubFile, HubRepository
from finetune_trainer.model_folder import CONFIG_FILE, ModelFolder, candidate_files, read_declared_model


@dataclass(frozen=True)
class FolderKind:
    """What is looked for in a folder, and how messages name it."""

    field: str
    noun: str
    candidates: Callable[[Collection[str]], list[str]]
    """Of names, those that may belong to it; sorted."""
    files: Callable[[ModelFolder], tuple[str, ...]]
    """Its files, checked. Raises UserError."""


BASE_MODEL = FolderKind(
    "model.source", "the model", candidate_files, lambda folder: read_declared_model(folder).files
)


class ModelOrigin(ModelFolder, Protocol):
    """A folder whose files can be brought to the pod's disk."""

    @property
    def revision(self) -> str | None:
        """The commit, at a hub."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 over the names, sizes and contents of the model's files."""
        ...

    def sha256_of(self, name: str) -> str | None:
        """A file's SHA-256, where it is known before its bytes are here."""
        ...

    def bring(self, name: str) -> Path:
        """The file on the pod's disk, verified."""
        ...

    def let_go(self, name: str) -> None:
        """Make room again for the next file."""
        ...


class HubModel:
    """A model of a hub. Its digest comes from the hub's list: nothing is downloaded for it."""

    def __init__(self, repository: HubRepository, directory: Path, kind: FolderKind = BASE_MODEL) -> None:
        self._kind = kind
        self._repository = repository
        self._directory = directory
        snapshot = repository.resolve()
        self.revision: str | None = snapshot.commit
        self.origin = repository.address.uri
        self._files = {file.name: file for file in snapshot.files}
        self.sizes: Mapping[str, int] = {file.name: file.size_bytes for file in snapshot.files}

    @property
    def digest(self) -> str:
        """SHA-256 over what the hub lists of every file that may belong to the model."""
        files = (self._files[name] for name in self._kind.candidates(self.sizes))
        return content_digest((file.name, file.size_bytes, _identity(self.origin, file)) for file in files)

    def sha256_of(self, name: str) -> str | None:
        """A file's SHA-256 as the hub lists it."""
        return self._files[name].sha256

    def read(self, name: str) -> bytes:
        """All bytes of a small file, which stays on the disk until it is let go."""
        return self.bring(name).read_bytes()

    def bring(self, name: str) -> Path:
        """Download a file, unless it is here already."""
        path = self._directory / name
        return path if path.exists() else self._repository.download(self._files[name], self._directory)

    def let_go(self, name: str) -> None:
        """Delete the download."""
        (self._directory / name).unlink()


class ClaimModel:
    """A model in a folder of a PersistentVolumeClaim. Who writes there need not be who wrote the job."""

    def __init__(self, uri: str, kind: FolderKind = BASE_MODEL) -> None:
        self._kind = kind
        self.origin = uri.rstrip("/")
        self.revision: str | None = None
        self._paths = _files_of_claim(self.origin, kind)
        self._sha256: dict[str, str] = {}
        self.sizes: Mapping[str, int] = {name: path.stat().st_size for name, path in self._paths.items()}

    @property
    def digest(self) -> str:
        """SHA-256 over the files' own contents, which are read for it."""
        files = self._kind.files(self)
        return content_digest((name, self.sizes[name], f"sha256:{self.sha256_of(name)}") for name in files)

    def sha256_of(self, name: str) -> str:
        """A file's SHA-256, computed once."""
        if name not in self._sha256:
            self._sha256[name] = sha256_of_file(self._readable(name))
        return self._sha256[name]

    def read(self, name: str) -> bytes:
        """All bytes of a file."""
        return self._readable(name).read_bytes()

    def bring(self, name: str) -> Path:
        """The file itself: it is on the pod's disk."""
        return self._readable(name)

    def let_go(self, name: str) -> None:
        """Nothing was copied."""

    def _readable(self, name: str) -> Path:
        path = self._paths[name]
        if not os.access(path, os.R_OK):
            raise UserError(
                f"The pod's user may not read {self.origin}/{name}. Make the file readable for all (`chmod a+r`)."
            )
        return path


def content_digest(files: Iterable[tuple[str, int, str]]) -> str:
    """SHA-256 over name, size and identity of files: equal for equal models, whoever asks for them."""
    lines = sorted(f"{name}\t{size_bytes}\t{identity}\n" for name, size_bytes, identity in files)
    return sha256("".join(lines).encode()).hexdigest()


def _identity(origin: str, file: HubFile) -> str:
    if file.identity is None:
        raise UserError(
            f"{origin} lists no hash of {file.name}, so it cannot be told from other versions. Put the model into the "
            "store and name it as s3://bucket/prefix."
        )
    return file.identity


# --- the claim -------------------------------------------------------------------------------------------------


def _files_of_claim(uri: str, kind: FolderKind) -> dict[str, Path]:
    """The files in the folder itself, and where each really stands. Raises UserError for what is not there."""
    claim, _, path = uri.removeprefix("pvc://").partition("/")
    mounted = Path(names.claim_directory(claim))
    if not mounted.is_dir():
        raise UserError(
            f"PersistentVolumeClaim '{claim}' of {kind.field} {uri} is not mounted at {mounted}. Create it in the "
            "job's namespace, or correct the name."
        )
    root = mounted.resolve()
    folder = _inside(root / path, root, uri)
    if not folder.is_dir():
        raise UserError(
            f"PersistentVolumeClaim '{claim}' has no folder '{path}' ({_present(root)}). Put {kind.noun} there, as "
            f"save_pretrained writes it, or correct {kind.field}."
        )
    return _files_in(folder, root, uri, kind)


def _files_in(folder: Path, root: Path, uri: str, kind: FolderKind) -> dict[str, Path]:
    try:
        found = sorted(folder.iterdir())
    except PermissionError as error:
        raise UserError(
            f"The pod's user may not look into {uri}. Make the folder readable for all (`chmod a+rx`)."
        ) from error
    files = {}
    for each in found:
        # Of what does not belong to a model only the name is said, and links are not followed.
        belongs = bool(kind.candidates([each.name]))
        place = _inside(each, root, f"{uri}/{each.name}") if belongs or not each.is_symlink() else each
        below = f"{each.name}/{CONFIG_FILE}"
        if os.path.isfile(place):  # noqa: PTH113 (False, not an error, for what may not be looked at)
            files[each.name] = place
        elif not each.is_symlink() and os.path.isfile(folder / below):  # noqa: PTH113
            files[below] = folder / below
    return files


def _inside(path: Path, root: Path, named: str) -> Path:
    try:
        place = path.resolve()
    except (OSError, RuntimeError) as error:  # links in a circle, a folder that may not be entered
        raise UserError(
            f"{named} leads nowhere ({type(error).__name__}). Put the file itself there."
        ) from error
    if not place.is_relative_to(root):
        raise UserError(
            f"{named} leads out of the claim by a symbolic link, which is never followed. Put the file itself into "
            "the claim, or make the link relative."
        )
    return place


def _present(root: Path) -> str:
    found = ", ".join(sorted(each.name for each in root.iterdir())[:10])
    return f"it has {found}" if found else "it is empty"
