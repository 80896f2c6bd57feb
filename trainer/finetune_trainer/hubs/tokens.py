"""A hub's token, from the file that the kubelet mounted."""

from __future__ import annotations

from pathlib import Path

from finetune_api import names
from finetune_api.spec import TokenSecretRef
from finetune_trainer.errors import UserError
from finetune_trainer.hubs.address import HubToken


def read_token(reference: TokenSecretRef | None, place: str) -> HubToken | None:
    """Read the token that `{place}.tokenSecretRef` names; None where none is named. Raises UserError."""
    if reference is None:
        return None
    directory = Path(names.credentials_directory(reference.name))
    field = f"{place}.tokenSecretRef"
    if not directory.is_dir():
        raise UserError(
            f"Secret '{reference.name}' of {field} is not mounted at {directory}. Create it in the job's namespace "
            f"with the hub's token under the key {reference.key}."
        )
    path = directory / reference.key
    # A trailing newline is what `kubectl create secret --from-file` and `echo` leave; no token contains white space.
    value = path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""
    token = HubToken(value, reference.name, reference.key)
    if not value:
        state = "is empty" if path.is_file() else "is missing"
        present = ", ".join(
            sorted(each.name for each in directory.iterdir() if not each.name.startswith("."))
        )
        raise UserError(
            f"Key {token.key} of Secret '{token.secret}' {state}; the Secret has {present or 'no keys'}. Put the "
            f"token there, or name its key in {field}.key."
        )
    if not value.isascii() or not value.isprintable() or " " in value:
        raise UserError(
            f"Key {token.key} of Secret '{token.secret}' holds no token: there is white space or other signs in it. "
            "Put the token alone there."
        )
    return token
