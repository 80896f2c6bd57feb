"""Rows from a real S3 server: single objects, folders with and without a slash, and what is not there."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune_api.spec import Dataset, DataSource, Store
from finetune_trainer.data.rows import RawRow, Split
from finetune_trainer.data.sources import HubDataset, LocalSource, fetch_sources, read_rows
from finetune_trainer.errors import DataError, ObjectMissing, UserError
from finetune_trainer.storage import ObjectStore
from tests.builders.row_files import COMPRESSIONS, CONTAINERS, json_list, jsonl, parquet, zstd

ROWS = [{"question": "如何退款?", "answer": "打开订单"}, {"question": "q", "answer": "a"}]

Fetch = Callable[[str], LocalSource]


def no_hub(uri: str, settings: DataSource, field: str) -> HubDataset:
    raise AssertionError(f"{uri} is not on a hub")


@pytest.fixture
def fetched(store_settings: Store, store: ObjectStore, tmp_path: Path) -> Fetch:
    """Fetches one training source."""

    def fetch(uri: str) -> LocalSource:
        dataset = Dataset.model_validate({"train": [{"source": uri}]})
        [source] = fetch_sources(dataset, store_settings, lambda _: store, no_hub, tmp_path / "sources")
        return source

    return fetch


def values(source: LocalSource) -> list[object]:
    return [row.value for row in read_rows(source) if isinstance(row, RawRow)]


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("container", CONTAINERS)
def test_an_object_of_every_container_is_read(
    store: ObjectStore, bucket: str, fetched: Fetch, container: str, compression: str
) -> None:
    uri = f"s3://{bucket}/rows{container}{compression}"
    store.write_bytes(uri, COMPRESSIONS[compression](CONTAINERS[container](ROWS)))
    source = fetched(uri)
    assert (source.label, source.field, source.split) == (uri, "dataset.train[0]", Split.TRAIN)
    assert [file.label for file in source.files] == [uri]
    assert values(source) == ROWS


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_folder_is_read_file_by_file_in_order_of_names(
    store: ObjectStore, bucket: str, fetched: Fetch, caplog: pytest.LogCaptureFixture, slash: str
) -> None:
    folder = f"s3://{bucket}/sets/support"
    files = {
        "part-00001.parquet": parquet(ROWS[1:]),
        "part-00000.jsonl.gz": gzip.compress(jsonl(ROWS[:1])),
        "z/deep.json.zst": zstd(json_list(ROWS)),
        "_SUCCESS": b"",
        ".part-00001.crc": b"crc",
        "README.md": b"# Rows",
        "dataset_info.json": b"{}",
    }
    for name, content in files.items():
        store.write_bytes(f"{folder}/{name}", content)
    store.write_bytes(f"{folder}-beside/other.jsonl", jsonl(ROWS))
    with caplog.at_level(logging.INFO):
        source = fetched(folder + slash)
    assert [file.label.removeprefix(folder) for file in source.files] == [
        "/part-00000.jsonl.gz",
        "/part-00001.parquet",
        "/z/deep.json.zst",
    ]
    assert values(source) == [*ROWS, *ROWS]
    assert (
        "3 files are read, left out: .part-00001.crc, README.md, _SUCCESS, dataset_info.json" in caplog.text
    )


def test_names_that_no_file_could_have_are_read(store: ObjectStore, bucket: str, fetched: Fetch) -> None:
    # On a disk, a.jsonl cannot be a file and a folder; an object's name may also be longer than a file's.
    for name in ("空 格/a&b=%20.jsonl", "a" * 200 + "/" + "b" * 200 + ".jsonl"):
        store.write_bytes(f"s3://{bucket}/odd/{name}", jsonl(ROWS[:1]))
    assert values(fetched(f"s3://{bucket}/odd/")) == ROWS[:1] * 2


def test_an_object_wins_over_the_folder_of_its_name(store: ObjectStore, bucket: str, fetched: Fetch) -> None:
    store.write_bytes(f"s3://{bucket}/rows.jsonl", jsonl(ROWS))
    assert values(fetched(f"s3://{bucket}/rows.jsonl")) == ROWS


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_folder_without_data_lists_what_is_there(
    store: ObjectStore, bucket: str, fetched: Fetch, slash: str
) -> None:
    for name in ("rows.zip", "README.md"):
        store.write_bytes(f"s3://{bucket}/sets/{name}", b"x")
    with pytest.raises(
        UserError,
        match=rf"dataset\.train\[0\]\.source s3://{bucket}/sets/? is a folder without a file that is read "
        r"\(it has README\.md, rows\.zip\)",
    ):
        fetched(f"s3://{bucket}/sets{slash}")


def test_a_missing_object_is_named_with_what_to_do(bucket: str, fetched: Fetch) -> None:
    with pytest.raises(
        ObjectMissing, match=rf"s3://{bucket}/nothing\.jsonl does not exist at http.*Put the object"
    ):
        fetched(f"s3://{bucket}/nothing.jsonl")


def test_a_missing_folder_is_named(bucket: str, fetched: Fetch) -> None:
    with pytest.raises(
        UserError, match=r"s3://.*/nothing/ is a folder without a file that is read \(it is empty\)"
    ):
        fetched(f"s3://{bucket}/nothing/")


def test_a_missing_bucket_is_named(fetched: Fetch) -> None:
    with pytest.raises(ObjectMissing, match=r"Bucket 'no-such-bucket' does not exist"):
        fetched("s3://no-such-bucket/rows.jsonl")


def test_a_type_that_is_never_read_is_not_downloaded(store: ObjectStore, bucket: str, fetched: Fetch) -> None:
    store.write_bytes(f"s3://{bucket}/rows.zip", b"PK\x03\x04")
    with pytest.raises(UserError, match=r"rows\.zip ends with \.zip, which is not read"):
        fetched(f"s3://{bucket}/rows.zip")


def test_a_compressed_parquet_file_that_is_cut_is_refused_when_it_is_fetched(
    store: ObjectStore, bucket: str, fetched: Fetch
) -> None:
    uri = f"s3://{bucket}/rows.parquet.gz"
    store.write_bytes(uri, gzip.compress(parquet(ROWS))[:-20])
    with pytest.raises(
        DataError, match=r"rows\.parquet\.gz was cut short: its gzip data end before their end"
    ):
        fetched(uri)


def test_sources_of_all_splits_are_fetched_side_by_side(
    store: ObjectStore, store_settings: Store, bucket: str, tmp_path: Path
) -> None:
    for name in ("train", "validation", "test"):
        store.write_bytes(f"s3://{bucket}/{name}.jsonl", jsonl([{"text": name}]))
    dataset = Dataset.model_validate(
        {
            "train": [{"source": f"s3://{bucket}/train.jsonl"}],
            "validation": {"sources": [{"source": f"s3://{bucket}/validation.jsonl"}]},
            "test": [{"source": f"s3://{bucket}/test.jsonl"}],
        }
    )
    found = fetch_sources(dataset, store_settings, lambda _: store, no_hub, tmp_path / "sources")
    assert [(source.split, values(source)) for source in found] == [
        (split, [{"text": split.value}]) for split in (Split.TRAIN, Split.VALIDATION, Split.TEST)
    ]
