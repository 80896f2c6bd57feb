"""Data sets of hubs: found as the hubs describe them, and brought to the disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_api import names
from finetune_api.spec import DataSource
from finetune_trainer.errors import UserError
from finetune_trainer.hubs.dataset_splits import splits_by_name
from finetune_trainer.hubs.datasets import HubDataset, open_hub_dataset
from finetune_trainer.hubs.retrying import Patience
from tests.stand_ins.hub_server import connect_directly
from tests.stand_ins.hugging_face_hub import HuggingFaceHub
from tests.stand_ins.model_scope_hub import ModelScopeHub

NAME = "org/rows"
SHORT = Patience(total_seconds=3.0, first_wait_seconds=0.01, longest_wait_seconds=0.05)
CARD = b"""---
configs:
- config_name: zh
  default: true
  data_files:
  - split: train
    path: zh/train*
  - split: test
    path: zh/test.jsonl
- config_name: en
  data_files: en/*.jsonl
---
# Rows
"""
FILES = {
    "README.md": CARD,
    "en/rows.jsonl": b'{"text": "en"}\n',
    "zh/test.jsonl": b'{"text": "zh test"}\n',
    "zh/train-1.jsonl.gz": b"\x1f\x8b compressed",
    "zh/train-2.jsonl": b'{"text": "zh"}\n',
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HuggingFaceHub]:
    """Hugging Face with one data set of two configurations."""
    connect_directly(monkeypatch)
    with HuggingFaceHub() as hub:
        hub.commit(NAME, FILES, kind="dataset")
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        yield hub


def open_dataset(uri: str = f"hf://{NAME}", **settings: Any) -> HubDataset:
    """The data set as a job's source names it."""
    source = DataSource.model_validate({"source": uri, **settings})
    return open_hub_dataset(uri, source, "dataset.train[0]", SHORT)


def contents(dataset: HubDataset, directory: Path) -> dict[str, bytes]:
    """What is fetched, by the labels that messages use."""
    return {file.label: file.path.read_bytes() for file in dataset.fetch(directory)}


@pytest.mark.parametrize(
    ("uri", "settings", "expected"),
    [
        pytest.param(f"hf://{NAME}", {}, ["zh/train-1.jsonl.gz", "zh/train-2.jsonl"], id="the default"),
        pytest.param(f"hf://{NAME}", {"split": "test"}, ["zh/test.jsonl"], id="a split"),
        pytest.param(f"hf://{NAME}:en", {}, ["en/rows.jsonl"], id="a configuration in the URI"),
        pytest.param(f"hf://{NAME}", {"subset": "en"}, ["en/rows.jsonl"], id="a subset"),
    ],
)
def test_the_files_of_a_split_are_fetched(
    hub: HuggingFaceHub, tmp_path: Path, uri: str, settings: dict[str, Any], expected: list[str]
) -> None:
    dataset = open_dataset(uri, **settings)

    assert contents(dataset, tmp_path) == {f"hf://{NAME}/{name}": FILES[name] for name in expected}
    assert dataset.revision == hub.commit_of(NAME, kind="dataset")


def test_nothing_but_the_card_is_fetched_before_the_files_are_wanted(hub: HuggingFaceHub) -> None:
    open_dataset()

    assert [each.path.rpartition("/")[2] for each in hub.seen if "/resolve/" in each.path] == ["README.md"]


def test_a_branch_that_moves_on_changes_nothing(hub: HuggingFaceHub, tmp_path: Path) -> None:
    dataset = open_dataset(split="test")
    hub.commit(NAME, {**FILES, "zh/test.jsonl": b"other"}, kind="dataset")

    assert contents(dataset, tmp_path) == {f"hf://{NAME}/zh/test.jsonl": FILES["zh/test.jsonl"]}


def test_rows_of_a_script_are_read_from_the_branch_with_parquet(hub: HuggingFaceHub, tmp_path: Path) -> None:
    hub.commit("org/script", {"script.py": b"import os"}, kind="dataset")
    converted = {"default/train/0000.parquet": b"PAR1", "default/test/0000.parquet": b"PAR1"}
    hub.commit("org/script", converted, kind="dataset", branch="refs/convert/parquet")

    with pytest.raises(UserError, match=r"Set dataset\.train\[0\]\.revision to refs/convert/parquet"):
        open_dataset("hf://org/script")
    dataset = open_dataset("hf://org/script", revision="refs/convert/parquet")
    assert list(contents(dataset, tmp_path)) == ["hf://org/script/default/train/0000.parquet"]


def test_a_private_data_set_is_read_with_its_token(
    hub: HuggingFaceHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "CONFIG_DIRECTORY", str(tmp_path / "etc"))
    secret = Path(names.credentials_directory("hub"))
    secret.mkdir(parents=True)
    (secret / "token").write_text("hf_reader")
    hub.hide(NAME, readers={"hf_reader"}, kind="dataset")

    with pytest.raises(
        UserError, match=r"no such dataset, or it is private .*dataset\.train\[0\]\.tokenSecretRef"
    ):
        open_dataset()
    assert contents(open_dataset(tokenSecretRef={"name": "hub"}), tmp_path / "files")


def test_a_card_that_cannot_be_read_does_not_stop_anybody(hub: HuggingFaceHub, tmp_path: Path) -> None:
    hub.commit(NAME, {"README.md": b"---\nconfigs: [\n---\n", "train.jsonl": b"{}"}, kind="dataset")

    assert list(contents(open_dataset(), tmp_path)) == [f"hf://{NAME}/train.jsonl"]


def test_a_data_set_of_modelscope_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect_directly(monkeypatch)
    with ModelScopeHub() as hub:
        commit = hub.commit(NAME, FILES, kind="dataset")
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.endpoint)
        dataset = open_dataset(f"modelscope://{NAME}:en")

        assert contents(dataset, tmp_path) == {f"modelscope://{NAME}/en/rows.jsonl": FILES["en/rows.jsonl"]}
        assert dataset.revision == commit
        with pytest.raises(UserError, match=r"has no subset 'fr'\. It has zh, en"):
            open_dataset(f"modelscope://{NAME}:fr")


# --- as the library datasets does ------------------------------------------------------------------------------

LAYOUTS = {
    "one file": ["rows.jsonl"],
    "a file a split": ["train.csv", "test.csv"],
    "other words for splits": ["training.csv", "dev.csv", "evaluation.csv"],
    "words within names": ["my_train_1.json", "my-val-1.json", "x.test.json"],
    "words that only begin so": ["trainer.json", "tested.json"],
    "folders": ["train/a.jsonl", "train/b.jsonl", "valid/c.jsonl"],
    "folders with more in their names": ["data-train-v2/a.jsonl", "data-test-v2/b.jsonl"],
    "folders before files": ["train/test.jsonl", "val/train.jsonl"],
    "shards": ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"],
    "shards of a split of their own": [
        "data/train_sft-00000-of-00001-0a1b.parquet",
        "data/test_sft-00000-of-00001-0a1b.parquet",
    ],
    "shards beside others": ["data/train-00000-of-00001.parquet", "other.csv"],
    "folders beside others": ["train/a.jsonl", "more.jsonl"],
    "splits below folders": ["zh/train.csv", "zh/test.csv"],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_splits_are_told_by_name_as_the_library_datasets_does(tmp_path: Path, layout: str) -> None:
    from datasets.data_files import DataFilesDict, get_data_patterns

    for name in LAYOUTS[layout]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"text": name}))
    patterns = get_data_patterns(str(tmp_path))
    theirs = {
        str(split): sorted(Path(path).relative_to(tmp_path).as_posix() for path in paths)
        for split, paths in DataFilesDict.from_patterns(patterns, base_path=str(tmp_path)).items()
    }

    ours = splits_by_name(sorted(LAYOUTS[layout]))
    assert {split: sorted(found) for split, found in ours.items()} == theirs
