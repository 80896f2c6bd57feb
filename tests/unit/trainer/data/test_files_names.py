"""Names of files: kinds, and which files of a folder are the data."""

from __future__ import annotations

import pytest

from finetune_trainer.data.files.file_names import (
    choose_data_files,
    is_never_rows,
    kind_suffix,
    other_split,
    shortened,
)

SUFFIXES = {
    "s3://data/rows.csv": ".csv",
    "s3://data/rows.CSV.GZ": ".csv",
    "rows.parquet.zst": ".parquet",
    "rows.jsonl.gz.gz": ".jsonl",
    "rows.gz": "",
    "v1.0/rows": "",
    "s3://data/sets/v1.0/": ".0",
}


@pytest.mark.parametrize("name", SUFFIXES)
def test_the_kind_stands_before_the_compression(name: str) -> None:
    assert kind_suffix(name) == SUFFIXES[name]


@pytest.mark.parametrize(
    "name", ["rows.zip", "rows.PKL", "rows.xlsx", "rows.zip.gz", "rows.tar.gz", "model.safetensors"]
)
def test_names_that_are_never_rows(name: str) -> None:
    assert is_never_rows(name)


@pytest.mark.parametrize("name", ["rows", "rows.v2", "rows.json", "rows.dat", "rows.gz"])
def test_names_whose_content_decides(name: str) -> None:
    assert not is_never_rows(name)


FOLDERS = {
    "files in order, at any depth": (
        ["b.jsonl", "sub/a.csv.gz", "a.parquet"],
        ["a.parquet", "b.jsonl", "sub/a.csv.gz"],
    ),
    "what Spark leaves": (
        ["_SUCCESS", "part-00000.snappy.parquet", ".part-00000.snappy.parquet.crc", "_delta_log/0.json"],
        ["part-00000.snappy.parquet"],
    ),
    "what datasets leaves": (
        ["data-00000-of-00001.arrow", "dataset_info.json", "state.json", "dataset_dict.json"],
        ["data-00000-of-00001.arrow"],
    ),
    "notes beside data": (
        ["README.md", "readme.txt", "notes.txt", "LICENSE", "train.jsonl", "requirements.txt"],
        ["train.jsonl"],
    ),
    "nothing but text": (["README.txt", "b.txt", "a.txt.gz"], ["a.txt.gz", "b.txt"]),
    "hidden folders": ([".git/rows.jsonl", "a/.cache/rows.jsonl", "rows.jsonl"], ["rows.jsonl"]),
    "nothing that is read": (["rows.zip", "part-00000", "image.png"], []),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_the_data_of_a_folder_are_chosen_by_name(case: str) -> None:
    names, expected = FOLDERS[case]
    choice = choose_data_files(names)
    assert list(choice.chosen) == expected
    assert sorted(choice.chosen + choice.skipped) == sorted(names)


OTHER_SPLITS = {
    "test.jsonl": "test",
    "support_valid.csv": "valid",
    "validation-00000-of-00001.parquet": "validation",
    "dev.json": "dev",
    "train.jsonl": None,
    "latest.jsonl": None,
    "contest.csv": None,
    "device.csv": None,
    "test/train.jsonl": None,
}


@pytest.mark.parametrize("name", OTHER_SPLITS)
def test_names_that_people_give_to_rows_kept_apart(name: str) -> None:
    assert other_split(name) == OTHER_SPLITS[name]


def test_long_lists_of_names_are_cut() -> None:
    assert shortened(["a", "b", "c"], 3) == "a, b, c"
    assert shortened(["a", "b", "c", "d"], 3) == "a, b, c and 1 more"
