"""Rows in a ConfigMap, which the pod has mounted."""

from __future__ import annotations

from pathlib import Path

from finetune_api import names
from finetune_trainer.data.sources.local import LocalFile
from finetune_trainer.errors import UserError


def config_map_file(uri: str, field: str) -> LocalFile:
    """Find the key. Raises UserError that lists the keys there are."""
    name, _, key = uri.removeprefix("configMap://").partition("/")
    directory = Path(names.config_map_directory(name))
    path = directory / key
    if not path.is_file():
        present = sorted(found.name for found in directory.glob("*") if found.is_file())
        has = f"it has {', '.join(present[:10])}" if present else "it has no keys, or is not mounted"
        raise UserError(f"{field} {uri}: ConfigMap '{name}' has no key '{key}' ({has}). Add or correct it.")
    return LocalFile(uri, path)
