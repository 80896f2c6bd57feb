"""Rows in a claim: files and folders, and links that would lead out of it."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from finetune_api import names
from finetune_trainer.data.sources.claims import claim_files
from finetune_trainer.data.sources.local import LocalFile
from finetune_trainer.errors import UserError

FIELD = "dataset.train[0]"


@pytest.fixture
def claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The mounted claim `data`, with credentials of the pod beside."""
    monkeypatch.setattr(names, "CONFIG_DIRECTORY", str(tmp_path))
    directory = tmp_path / "claims" / "data"
    directory.mkdir(parents=True)
    secret = tmp_path / "credentials" / "s3"
    secret.mkdir(parents=True)
    (secret / "keys.jsonl").write_text('{"text": "CANARY"}')
    return directory


def put(claim: Path, *paths: str) -> None:
    for path in paths:
        (claim / path).parent.mkdir(parents=True, exist_ok=True)
        (claim / path).write_text('{"text": "t"}\n')


def test_a_file_is_read_where_it_is_mounted(claim: Path) -> None:
    put(claim, "sets/rows.jsonl")
    assert claim_files("pvc://data/sets/rows.jsonl", FIELD) == [
        LocalFile("pvc://data/sets/rows.jsonl", claim / "sets/rows.jsonl")
    ]


@pytest.mark.parametrize("uri", ["pvc://data/sets", "pvc://data/sets/"])
def test_a_folder_gives_its_data_files_by_name(claim: Path, uri: str) -> None:
    put(claim, "sets/b.jsonl", "sets/deep/a.csv", "sets/README.md", "sets/_SUCCESS", "other/c.jsonl")
    assert [file.label for file in claim_files(uri, FIELD)] == [
        "pvc://data/sets/b.jsonl",
        "pvc://data/sets/deep/a.csv",
    ]


def test_the_root_of_a_claim_is_a_folder_too(claim: Path) -> None:
    put(claim, "rows.jsonl")
    assert claim_files("pvc://data", FIELD) == [LocalFile("pvc://data/rows.jsonl", claim / "rows.jsonl")]


def test_what_is_left_out_of_a_folder_is_logged(claim: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(claim, "sets/b.jsonl", "sets/README.md")
    with caplog.at_level(logging.INFO):
        claim_files("pvc://data/sets", FIELD)
    assert "pvc://data/sets is a folder: 1 files are read, left out: README.md" in caplog.text


def test_links_within_the_claim_are_followed(claim: Path) -> None:
    put(claim, "store/v2.jsonl")
    (claim / "current.jsonl").symlink_to("store/v2.jsonl")
    assert claim_files("pvc://data/current.jsonl", FIELD)[0].path == claim / "store/v2.jsonl"


def test_linked_folders_are_not_entered(claim: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(claim, "sets/a.jsonl", "else/b.jsonl")
    (claim / "sets/linked").symlink_to("../else")
    with caplog.at_level(logging.INFO):
        assert len(claim_files("pvc://data/sets", FIELD)) == 1
    assert "linked folders are not entered: linked" in caplog.text


LEAVING = {
    "a file linked by an absolute path": ("rows.jsonl", "{root}/credentials/s3/keys.jsonl", "rows.jsonl"),
    "a file linked by a relative path": ("rows.jsonl", "../../credentials/s3/keys.jsonl", "rows.jsonl"),
    "a folder": ("sets", "../../credentials/s3", "sets"),
    "a file behind a linked folder": ("sets", "../../credentials/s3", "sets/keys.jsonl"),
    "nothing behind a linked folder": ("sets", "../../credentials/s3", "sets/nothing.jsonl"),
    "a file within a folder": ("sets/rows.jsonl", "../../../credentials/s3/keys.jsonl", "sets"),
    "a file that is elsewhere in the pod that wrote it": ("rows.jsonl", "/data/store/v2.jsonl", "rows.jsonl"),
}


@pytest.mark.parametrize("case", LEAVING)
def test_no_link_leads_out_of_the_claim(claim: Path, tmp_path: Path, case: str) -> None:
    link, target, path = LEAVING[case]
    (claim / link).parent.mkdir(parents=True, exist_ok=True)
    (claim / link).symlink_to(target.format(root=tmp_path))
    with pytest.raises(UserError) as caught:
        claim_files(f"pvc://data/{path}", FIELD)
    assert "leads out of the claim by a symbolic link, which is never followed" in caught.value.message
    assert "keys.jsonl" not in caught.value.message.replace(path, "")


def test_a_claim_that_is_not_mounted_is_named(claim: Path) -> None:
    with pytest.raises(
        UserError, match=r"PersistentVolumeClaim 'else' is not mounted at .*Create it in the job's"
    ):
        claim_files("pvc://else/rows.jsonl", FIELD)


MISSING = {
    "a file": ("sets/rows.csv", r"has no 'sets/rows.csv' \(folder 'sets' has rows.jsonl\)"),
    "a folder": ("nothing/rows.csv", r"has no 'nothing/rows.csv' \(it has empty, sets\)"),
    "a file in an empty folder": (
        "empty/rows.csv",
        r"has no 'empty/rows.csv' \(folder 'empty' has nothing\)",
    ),
    "something below a file": (
        "sets/rows.jsonl/a",
        r"has no 'sets/rows.jsonl/a' \(folder 'sets' has rows.jsonl\)",
    ),
}


@pytest.mark.parametrize("case", MISSING)
def test_what_is_not_there_is_named_with_what_is(claim: Path, case: str) -> None:
    path, sentence = MISSING[case]
    put(claim, "sets/rows.jsonl")
    (claim / "empty").mkdir()
    with pytest.raises(UserError, match=rf"^dataset\.train\[0\]\.source pvc://data/{path}: .*{sentence}"):
        claim_files(f"pvc://data/{path}", FIELD)


@pytest.mark.parametrize("target", ["nothing.jsonl", "rows.jsonl"])
def test_a_link_to_nothing_or_to_itself_is_named(claim: Path, target: str) -> None:
    (claim / "rows.jsonl").symlink_to(target)
    with pytest.raises(UserError, match=r"'rows.jsonl' is a symbolic link that leads nowhere"):
        claim_files("pvc://data/rows.jsonl", FIELD)


def test_a_folder_without_data_lists_what_it_has(claim: Path) -> None:
    put(claim, "sets/rows.zip", "sets/README.md")
    with pytest.raises(
        UserError, match=r"is a folder without a file that is read \(it has README.md, rows.zip\)"
    ):
        claim_files("pvc://data/sets", FIELD)
    (claim / "empty").mkdir()
    with pytest.raises(UserError, match=r"is a folder without a file that is read \(it is empty\)"):
        claim_files("pvc://data/empty", FIELD)


def test_a_pipe_is_no_file(claim: Path) -> None:
    os.mkfifo(claim / "rows.jsonl")
    with pytest.raises(UserError, match=r"'rows.jsonl' is neither a file nor a folder"):
        claim_files("pvc://data/rows.jsonl", FIELD)


def test_a_file_that_the_pod_may_not_read_is_named(claim: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(claim, "rows.jsonl")
    # The tests may run as root, who may read everything.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match=r"the pod's user may not read 'rows.jsonl'.*chmod a\+r"):
        claim_files("pvc://data/rows.jsonl", FIELD)


def test_more_files_than_are_read_are_refused(claim: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from finetune_trainer.data.sources import folders

    monkeypatch.setattr(folders, "MAX_FILES", 2)
    put(claim, "sets/a.jsonl", "sets/b.jsonl", "sets/c.jsonl")
    with pytest.raises(UserError, match=r"has 3 files; at most 2 are read.*fewer, larger files"):
        claim_files("pvc://data/sets", FIELD)
