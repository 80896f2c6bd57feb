"""Sources: their order and fields, inline rows, ConfigMaps and hubs, and names that are refused before any fetching."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path

import pytest

from finetune_api import names
from finetune_api.spec import Dataset, DataSource, Store
from finetune_trainer.data.rows import Place, RawRow, Split
from finetune_trainer.data.sources import LocalFile, LocalSource, fetch_sources, file_notes, read_rows
from finetune_trainer.errors import DataError, UserError
from finetune_trainer.storage import ObjectStore
from tests.builders.row_files import COMPRESSIONS, arrow_stream, jsonl, parquet

ROWS = [{"question": "q", "answer": "a"}, {"question": "q2", "answer": "a2"}]


class StandInHub:
    """Any data set, at once, as one file; it notes what it was asked for."""

    def __init__(self, content: bytes = b"", file_name: str = "train.jsonl") -> None:
        self.asked: list[tuple[str, DataSource, str]] = []
        self._content = content
        self._file_name = file_name
        self._uri = ""

    def open(self, uri: str, settings: DataSource, field: str) -> StandInHub:
        self.asked.append((uri, settings, field))
        self._uri = uri
        return self

    def fetch(self, directory: Path) -> list[LocalFile]:
        path = directory / "file"
        path.write_bytes(self._content)
        return [LocalFile(f"{self._uri}/{self._file_name}", path)]


def fetch(
    dataset: Mapping[str, object], directory: Path = Path("/nowhere"), hub: StandInHub | None = None
) -> list[LocalSource]:
    hub = hub or StandInHub()
    return fetch_sources(Dataset.model_validate(dataset), Store(), ObjectStore.open, hub.open, directory)


def test_sources_come_in_the_order_train_validation_test_with_their_fields() -> None:
    def rows(text: str) -> dict[str, object]:
        return {"inline": [{"text": text}]}

    found = fetch(
        {
            "train": [rows("a"), rows("b")],
            "validation": {"sources": [rows("c")]},
            "test": [rows("d"), rows("e")],
        }
    )
    assert [(source.field, source.split) for source in found] == [
        ("dataset.train[0]", Split.TRAIN),
        ("dataset.train[1]", Split.TRAIN),
        ("dataset.validation.sources[0]", Split.VALIDATION),
        ("dataset.test[0]", Split.TEST),
        ("dataset.test[1]", Split.TEST),
    ]


def test_a_validation_fraction_is_no_source() -> None:
    assert len(fetch({"train": [{"inline": ROWS}], "validation": {"fraction": 0.1}})) == 1


def test_inline_rows_are_named_by_their_field() -> None:
    [source] = fetch({"train": [{"inline": ROWS}]})
    assert source.files == ()
    assert list(read_rows(source)) == [
        RawRow(Place("dataset.train[0].inline", "row", 1), ROWS[0]),
        RawRow(Place("dataset.train[0].inline", "row", 2), ROWS[1]),
    ]


def test_max_rows_takes_the_first_inline_rows() -> None:
    [source] = fetch({"train": [{"inline": ROWS, "maxRows": 1}]})
    assert len(list(read_rows(source))) == 1


@pytest.fixture
def config_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The mounted ConfigMap `rows`."""
    monkeypatch.setattr(names, "CONFIG_DIRECTORY", str(tmp_path / "etc"))
    directory = tmp_path / "etc" / "data" / "rows"
    directory.mkdir(parents=True)
    return directory


def test_rows_of_a_config_map_are_read_where_it_is_mounted(config_map: Path) -> None:
    (config_map / "train.jsonl").write_bytes(jsonl(ROWS))
    [source] = fetch({"train": [{"source": "configMap://rows/train.jsonl"}]})
    assert source.files == (LocalFile("configMap://rows/train.jsonl", config_map / "train.jsonl"),)
    assert [row.value for row in read_rows(source) if isinstance(row, RawRow)] == ROWS


def test_a_key_that_the_config_map_lacks_is_named_with_those_it_has(config_map: Path) -> None:
    (config_map / "other.jsonl").write_bytes(jsonl(ROWS))
    with pytest.raises(UserError, match=r"ConfigMap 'rows' has no key 'train.jsonl' \(it has other.jsonl\)"):
        fetch({"train": [{"source": "configMap://rows/train.jsonl"}]})


def test_a_config_map_that_is_not_there_is_named(config_map: Path) -> None:
    with pytest.raises(
        UserError, match=r"ConfigMap 'else' has no key .* \(it has no keys, or is not mounted\)"
    ):
        fetch({"train": [{"source": "configMap://else/train.jsonl"}]})


@pytest.mark.parametrize("uri", ["hf://org/support", "modelscope://org/support"])
def test_a_hub_is_asked_with_the_settings_of_the_source(tmp_path: Path, uri: str) -> None:
    hub = StandInHub(jsonl(ROWS))
    [source] = fetch({"train": [{"source": uri, "split": "train", "revision": "v1"}]}, tmp_path, hub)
    [(asked, settings, field)] = hub.asked
    assert (asked, settings.revision, field) == (uri, "v1", "dataset.train[0]")
    assert source.label == uri
    assert [str(row.place) for row in read_rows(source)] == [f"{uri}/train.jsonl line {n}" for n in (1, 2)]


@pytest.mark.parametrize("compression", [".gz", ".zst"])
@pytest.mark.parametrize("write", [parquet, arrow_stream])
def test_compressed_columns_are_unpacked_once(tmp_path: Path, write: object, compression: str) -> None:
    assert callable(write)
    hub = StandInHub(COMPRESSIONS[compression](write(ROWS)), f"train.parquet{compression}")
    [source] = fetch({"train": [{"source": "hf://org/support"}]}, tmp_path, hub)
    [file] = source.files
    assert file.path.read_bytes() == write(ROWS)
    for _ in range(2):
        assert [row.value for row in read_rows(source) if isinstance(row, RawRow)] == ROWS


def test_compressed_lines_stay_as_they_are(tmp_path: Path) -> None:
    hub = StandInHub(gzip.compress(jsonl(ROWS)), "train.jsonl.gz")
    [source] = fetch({"train": [{"source": "hf://org/support"}]}, tmp_path, hub)
    assert source.files[0].path.read_bytes().startswith(b"\x1f\x8b")
    assert file_notes(source) == ("unpacked (gzip)",)


@pytest.mark.parametrize("scheme", ["s3://data", "pvc://claim", "configMap://rows"])
@pytest.mark.parametrize("suffix", [".zip", ".PKL", ".xlsx", ".bin", ".pdf.gz"])
def test_other_file_types_are_refused_by_name_before_anything_is_fetched(scheme: str, suffix: str) -> None:
    hub = StandInHub()
    dataset = {"train": [{"source": "hf://org/support"}], "test": [{"source": f"{scheme}/rows{suffix}"}]}
    with pytest.raises(
        UserError, match=r"dataset.test\[0\].source .* is not read. Convert it to one of .jsonl,"
    ):
        fetch(dataset, hub=hub)
    assert hub.asked == []


# --- several files ---------------------------------------------------------------------------------------------


def make_source(
    tmp_path: Path, files: dict[str, bytes], *, split: Split = Split.TRAIN, **settings: object
) -> LocalSource:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    return LocalSource(
        "s3://data/set",
        "dataset.train[0]",
        DataSource.model_validate({"source": "s3://data/set", **settings}),
        split,
        tuple(LocalFile(f"s3://data/set/{name}", tmp_path / name) for name in files),
    )


def test_files_are_read_one_behind_the_other(tmp_path: Path) -> None:
    source = make_source(tmp_path, {"a.jsonl": jsonl(ROWS), "b.parquet": parquet(ROWS)})
    assert [str(row.place) for row in read_rows(source)] == [
        "s3://data/set/a.jsonl line 1",
        "s3://data/set/a.jsonl line 2",
        "s3://data/set/b.parquet row 1",
        "s3://data/set/b.parquet row 2",
    ]


def test_max_rows_counts_over_all_files(tmp_path: Path) -> None:
    source = make_source(tmp_path, {"a.jsonl": jsonl(ROWS), "b.jsonl": jsonl(ROWS)}, maxRows=3)
    assert len(list(read_rows(source))) == 3


def test_a_file_behind_max_rows_is_not_opened(tmp_path: Path) -> None:
    source = make_source(tmp_path, {"a.jsonl": jsonl(ROWS), "b.jsonl": b"<html>"}, maxRows=2)
    assert len(list(read_rows(source))) == 2


def test_empty_files_beside_others_are_left_out_and_noted(tmp_path: Path) -> None:
    source = make_source(tmp_path, {"a.jsonl": b"", "b.jsonl": jsonl(ROWS)})
    assert len(list(read_rows(source))) == 2
    assert file_notes(source) == ("1 of 2 files (a.jsonl): left out, since there are no rows in it",)


def test_a_folder_of_empty_files_is_refused(tmp_path: Path) -> None:
    source = make_source(tmp_path, {"a.jsonl": b"", "b.csv": b"text,label\n"})
    with pytest.raises(
        DataError, match=r"^s3://data/set: none of its 2 files has rows \(s3://data/set/a\.jsonl, "
    ):
        list(read_rows(source))


def test_one_broken_file_of_a_folder_is_named(tmp_path: Path) -> None:
    source = make_source(tmp_path, {"a.jsonl": jsonl(ROWS), "b.jsonl": b"<html>"})
    with pytest.raises(DataError, match=r"^s3://data/set/b\.jsonl is an HTML page"):
        list(read_rows(source))


NOTES: dict[str, tuple[dict[str, bytes], tuple[str, ...]]] = {
    "nothing to say": ({"a.jsonl": jsonl(ROWS), "b.jsonl": jsonl(ROWS)}, ()),
    "all files alike": (
        {"a.jsonl": gzip.compress(jsonl(ROWS)), "b.jsonl": gzip.compress(jsonl(ROWS))},
        ("all 2 files: unpacked (gzip)",),
    ),
    "many of several": (
        {**{f"{n}.jsonl": gzip.compress(jsonl(ROWS)) for n in range(5)}, "b.jsonl": jsonl(ROWS)},
        ("5 of 6 files (0.jsonl, 1.jsonl, 2.jsonl and 2 more): unpacked (gzip)",),
    ),
    "a broken file": (
        {"a.jsonl": jsonl(ROWS), "b.parquet": b"PARE"},
        ("1 of 2 files (b.parquet): s3://data/set/b.parquet is an encrypted Parquet file, not rows. Store it unencrypted.",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NOTES)
def test_notes_say_which_files_they_are_about(tmp_path: Path, case: str) -> None:
    files, expected = NOTES[case]
    assert file_notes(make_source(tmp_path, files)) == expected


def test_files_named_for_another_split_are_noted_among_rows_for_training(tmp_path: Path) -> None:
    files = {"test.jsonl": jsonl(ROWS), "train.jsonl": jsonl(ROWS), "validation.jsonl": jsonl(ROWS)}
    [note] = file_notes(make_source(tmp_path, files))
    assert note.startswith("test.jsonl, validation.jsonl are read as rows for training like all other files")
    assert file_notes(make_source(tmp_path, files, split=Split.TEST)) == ()
    assert file_notes(make_source(tmp_path, {"test.jsonl": jsonl(ROWS)})) == ()


def test_inline_rows_have_no_notes() -> None:
    [source] = fetch({"train": [{"inline": ROWS}]})
    assert file_notes(source) == ()
