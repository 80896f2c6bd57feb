"""A mounted Secret that is replaced while the pod runs."""

from __future__ import annotations

from pathlib import Path

from finetune_trainer.storage.credentials import MountedCredentials


def mount(directory: Path, version: str, **keys: str) -> None:
    """Lay the files out, and swap them, as the kubelet does: all at once, by one link."""
    folder = directory / f"..{version}"
    folder.mkdir(parents=True)
    for key, value in keys.items():
        (folder / key).write_text(value)
        link = directory / key
        if not link.is_symlink():
            link.symlink_to(Path("..data") / key)
    (directory / "..data_tmp").symlink_to(folder.name)
    (directory / "..data_tmp").rename(directory / "..data")


def test_a_replaced_secret_is_used_from_then_on(tmp_path: Path) -> None:
    mount(tmp_path, "1", AWS_ACCESS_KEY_ID="old", AWS_SECRET_ACCESS_KEY="old-secret\n")
    credentials = MountedCredentials("s3", tmp_path)
    assert credentials.get_frozen_credentials() == ("old", "old-secret", None, None)
    mount(
        tmp_path, "2", AWS_ACCESS_KEY_ID="new", AWS_SECRET_ACCESS_KEY="new-secret", AWS_SESSION_TOKEN="token"
    )
    assert credentials.get_frozen_credentials()[:3] == ("new", "new-secret", "token")


def test_the_keys_do_not_show_when_the_object_is_printed(tmp_path: Path) -> None:
    mount(tmp_path, "1", AWS_ACCESS_KEY_ID="canary-id", AWS_SECRET_ACCESS_KEY="canary-secret")
    assert "canary" not in repr(MountedCredentials("s3", tmp_path))
