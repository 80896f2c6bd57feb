"""A tracker's key, from the files that the kubelet mounted; it goes to the tracker's library and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from finetune_api import names
from finetune_trainer.errors import UserError
from finetune_trainer.trackers import SecretKeys


def read_secret(wanted: SecretKeys | None) -> dict[str, str]:
    """Read the keys that stand together in the Secret; none where none is named. Raises UserError."""
    if wanted is None:
        return {}
    directory = Path(names.credentials_directory(wanted.secret))
    if not directory.is_dir():
        raise UserError(
            f"Secret '{wanted.secret}' of {wanted.field} is not mounted at {directory}. Create it in the job's "
            f"namespace with {_spoken(wanted)}."
        )
    for keys in wanted.alternatives:
        values = {key: _read(directory / key) for key in keys}
        if all(values.values()):
            return values
    raise UserError(
        f"Secret '{wanted.secret}' of {wanted.field} has not {_spoken(wanted)}. Add what is missing."
    )


def redacted(text: str, secret: Mapping[str, str]) -> str:
    """The text without the secret's values, should a library repeat them in an error."""
    for key, value in secret.items():
        text = text.replace(value, f"<{key}>")
    return text


def _read(path: Path) -> str:
    # A trailing newline is what `kubectl create secret --from-file` and `echo` leave.
    return path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""


def _spoken(wanted: SecretKeys) -> str:
    return ", or ".join(" and ".join(keys) for keys in wanted.alternatives)
