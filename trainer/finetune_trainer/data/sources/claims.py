"""Rows in a PersistentVolumeClaim, which the pod has mounted: a file, or all readable files below a folder.

Who writes to the claim need not be who wrote the job: no symbolic link may lead out of it, to the pod's credentials.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from finetune_api import names
from finetune_trainer.data.files.file_names import shortened
from finetune_trainer.data.sources.folders import readable_names
from finetune_trainer.data.sources.local import LocalFile
from finetune_trainer.errors import UserError

logger = logging.getLogger(__name__)


def claim_files(uri: str, field: str) -> list[LocalFile]:
    """Find the file, or the files of the folder. Raises UserError for what is not there, or lies outside the claim."""
    claim, _, path = uri.removeprefix("pvc://").strip("/").partition("/")
    root = Path(names.claim_directory(claim))
    if not root.is_dir():
        raise UserError(
            f"{field}.source {uri}: PersistentVolumeClaim '{claim}' is not mounted at {root}. "
            "Create it in the job's namespace, or correct the name."
        )
    folder = _Claim(claim, root.resolve(), f"{field}.source {uri}")
    found = folder.resolve(path)
    if found.is_dir():
        chosen = readable_names(uri, field, folder.names_below(found))
        return [LocalFile(f"{uri.rstrip('/')}/{name}", folder.file(str(Path(path, name)))) for name in chosen]
    return [LocalFile(uri.rstrip("/"), folder.file(path))]


@dataclass(frozen=True)
class _Claim:
    name: str
    root: Path
    # How messages begin.
    subject: str

    def file(self, path: str) -> Path:
        """Where a file really stands. Raises UserError for what cannot be read."""
        found = self.resolve(path)
        if not found.is_file():
            raise UserError(
                f"{self.subject}: '{path}' is neither a file nor a folder. Name a file with rows."
            )
        if not os.access(found, os.R_OK):
            raise UserError(
                f"{self.subject}: the pod's user may not read '{path}'. Make the file readable for all (`chmod a+r`)."
            )
        return found

    def resolve(self, path: str) -> Path:
        """Where a path leads. Raises UserError for one that leads out of the claim, or nowhere."""
        wanted = self.root / path
        try:
            found = wanted.resolve()
            is_there = found.exists()
        except RuntimeError:  # links in a circle
            found, is_there = wanted, False
        except PermissionError as error:
            raise UserError(
                f"{self.subject}: the pod's user may not look into a folder of '{path}'. "
                "Make it readable for all (`chmod a+rx`)."
            ) from error
        if not found.is_relative_to(self.root):
            raise UserError(
                f"{self.subject}: '{path}' leads out of the claim by a symbolic link, which is never followed. "
                "Put the file itself into the claim, or make the link relative."
            )
        if not is_there:
            raise self._missing(path, wanted)
        return found

    def names_below(self, folder: Path) -> list[str]:
        """The files below a folder, by names relative to it. Linked folders are not entered."""
        found = []
        for directory, folders, files in os.walk(folder):
            here = Path(directory)
            found += [(here / name).relative_to(folder).as_posix() for name in files]
            linked = [name for name in folders if (here / name).is_symlink()]
            if linked:
                logger.info("%s: linked folders are not entered: %s", self.subject, shortened(linked))
        return found

    def _missing(self, path: str, wanted: Path) -> UserError:
        if wanted.is_symlink():
            return UserError(
                f"{self.subject}: '{path}' is a symbolic link that leads nowhere. Put the file itself into the claim."
            )
        parent = next(folder for folder in wanted.parents if self._is_own_folder(folder))
        present = shortened(sorted(found.name for found in parent.iterdir())) or "nothing"
        where = "it" if parent == self.root else f"folder '{parent.relative_to(self.root)}'"
        return UserError(
            f"{self.subject}: PersistentVolumeClaim '{self.name}' has no '{path}' ({where} has {present}). "
            "Put the file there or correct the path."
        )

    def _is_own_folder(self, folder: Path) -> bool:
        # What lies behind a link is not told either.
        return folder.is_dir() and folder.resolve().is_relative_to(self.root)
