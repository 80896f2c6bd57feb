"""Access keys from a mounted Secret, re-read whenever the kubelet has replaced the files."""

from __future__ import annotations

import logging
from pathlib import Path

from botocore.credentials import Credentials, ReadOnlyCredentials

from finetune_api import names
from finetune_trainer.errors import UserError

logger = logging.getLogger(__name__)

# The kubelet writes a Secret's files into a folder of its own and swaps this link: all keys change at once.
_KUBELET_DATA_LINK = "..data"


class MountedCredentials(Credentials):  # type: ignore[misc]  # botocore carries no types
    """Keys of one Secret. botocore asks before it signs each request, so a rotated Secret needs no restart."""

    def __init__(self, secret_name: str, directory: Path) -> None:
        self._secret_name = secret_name
        self._directory = directory
        self._version = _version_of(directory)
        self._keys = read_keys(secret_name, directory)
        super().__init__(*self._keys, method="mounted-secret")

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        """Return the keys as they stand in the files now."""
        version = _version_of(self._directory)
        if version != self._version:
            logger.info("reading credentials again: Secret '%s' has changed", self._secret_name)
            self._keys = read_keys(self._secret_name, self._directory)
            self._version = version
        return ReadOnlyCredentials(*self._keys)


def read_keys(secret_name: str, directory: Path) -> tuple[str, str, str | None]:
    """Read access key, secret key and session token. Raises UserError that names the Secret and the missing key."""
    data = directory / _KUBELET_DATA_LINK
    folder = data.resolve() if data.exists() else directory
    return (
        _required(secret_name, folder, names.SECRET_KEY_ACCESS_KEY_ID),
        _required(secret_name, folder, names.SECRET_KEY_SECRET_ACCESS_KEY),
        _optional(folder / names.SECRET_KEY_SESSION_TOKEN),
    )


def _required(secret_name: str, folder: Path, key: str) -> str:
    value = _optional(folder / key)
    if value is None:
        state = "is empty" if (folder / key).exists() else "is missing"
        raise UserError(
            f"Key {key} of Secret '{secret_name}' {state}. The Secret needs {names.SECRET_KEY_ACCESS_KEY_ID} and "
            f"{names.SECRET_KEY_SECRET_ACCESS_KEY}; add the key, or name another Secret in credentialsSecretRef."
        )
    return value


def _optional(path: Path) -> str | None:
    # A trailing newline is what `kubectl create secret --from-file` and `echo` leave; no key contains one.
    return path.read_text(encoding="utf-8").strip() or None if path.is_file() else None


def _version_of(directory: Path) -> tuple[tuple[str, int, int], ...]:
    paths = sorted(path for path in directory.glob("AWS_*") if path.is_file())
    return tuple((path.name, path.stat().st_mtime_ns, path.stat().st_ino) for path in paths)
