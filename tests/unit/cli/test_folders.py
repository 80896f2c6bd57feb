"""What may be written over, and that a model gets into place whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from finetune_api.layout import ARTIFACT_MANIFEST_NAME, MODEL_CARD_NAME, ArtifactManifest
from finetune_cli.errors import CommandError
from finetune_cli.folders import Staging, check_free_disk, check_replaceable, is_in_place
from tests.builders.finished_jobs import make_artifact, make_manifest_bytes

OLD = make_artifact({"config.json": b"old", "weights/a.safetensors": b"old"})
NEW = make_artifact({"config.json": b"new"})


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def read(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    "files",
    [{}, OLD, {ARTIFACT_MANIFEST_NAME: OLD[ARTIFACT_MANIFEST_NAME]}],
    ids=["an empty folder", "a model pulled earlier", "what is left of one"],
)
def test_may_be_written_over(tmp_path: Path, files: dict[str, bytes]) -> None:
    target = tmp_path / "bot"
    target.mkdir()
    check_replaceable(write(target, files))


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"thesis.tex": b""}, "thesis.tex"),
        ({**OLD, "notes/mine.txt": b""}, "notes/mine.txt"),
        ({**OLD, ARTIFACT_MANIFEST_NAME: b"{}"}, "config.json"),
    ],
    ids=["a folder of the user's", "a pulled model with a file of the user's", "an unreadable manifest"],
)
def test_must_not_be_written_over(tmp_path: Path, files: dict[str, bytes], named: str) -> None:
    with pytest.raises(CommandError, match=named):
        check_replaceable(write(tmp_path / "bot", files))


def test_a_file_in_the_way_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "bot").write_text("mine")
    with pytest.raises(CommandError, match="did not put there"):
        check_replaceable(tmp_path / "bot")


def test_a_finished_folder_replaces_the_earlier_one(tmp_path: Path) -> None:
    target = write(tmp_path / "bot", OLD)
    manifest = NEW[ARTIFACT_MANIFEST_NAME]
    staging = Staging.beside(target, manifest)
    write(staging.folder / "files", {"config.json": b"new"})
    staging.put_in_place(target, manifest)
    assert read(target) == NEW
    assert [path.name for path in tmp_path.iterdir()] == ["bot"]


def test_a_model_card_stands_beside_the_files_and_goes_with_them(tmp_path: Path) -> None:
    target = write(tmp_path / "bot", {**OLD, MODEL_CARD_NAME: b"old card"})
    check_replaceable(target)
    manifest = NEW[ARTIFACT_MANIFEST_NAME]
    staging = Staging.beside(target, manifest)
    write(staging.folder / "files", {"config.json": b"new"})
    staging.add_card(b"new card")
    staging.put_in_place(target, manifest)
    assert read(target) == {**NEW, MODEL_CARD_NAME: b"new card"}


def test_an_earlier_try_for_the_same_manifest_is_taken_up_and_others_go(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "bot"
    first = Staging.beside(target, b"one")
    write(first.folder, {"files/a": b"x"})
    write(Staging.beside(target, b"one").folder, {})
    assert read(first.folder) == {"files/a": b"x"}
    second = Staging.beside(target, b"two")
    assert second.folder != first.folder
    assert not first.folder.exists()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({}, True), ({"config.json": b"NEW"}, False), ({ARTIFACT_MANIFEST_NAME: b"{}"}, False)],
    ids=["untouched", "a file changed", "another manifest"],
)
def test_a_model_in_place_is_verified(tmp_path: Path, changes: dict[str, bytes], expected: bool) -> None:
    target = write(tmp_path / "bot", {**NEW, **changes})
    content = NEW[ARTIFACT_MANIFEST_NAME]
    assert is_in_place(target, content, ArtifactManifest.model_validate_json(content)) is expected


def test_a_model_with_a_missing_file_is_not_in_place(tmp_path: Path) -> None:
    content = make_manifest_bytes({"a": b""})
    target = write(tmp_path / "bot", {ARTIFACT_MANIFEST_NAME: content})
    assert not is_in_place(target, content, ArtifactManifest.model_validate_json(content))


def test_what_does_not_fit_is_refused_before_the_first_byte(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    check_free_disk(tmp_path / "bot", free // 2)
    with pytest.raises(CommandError, match="GB are free"):
        check_free_disk(tmp_path / "bot", free * 2)
