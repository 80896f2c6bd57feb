"""What train and export keep in the store beside checkpoints: who may write it, and what readers find."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from devcluster import S3Server
from finetune_api.layout import CurrentPointer, RunLayout
from finetune_api.spec import Store
from finetune_api.termination import TrainedFacts
from finetune_trainer.claims import claim_incarnation, note_start
from finetune_trainer.current_pointer import move_current
from finetune_trainer.data.prepared import (
    PreparedManifest,
    PreparedRows,
    download_prepared,
    save_prepared,
    write_rows,
)
from finetune_trainer.errors import StorageUnavailable, Superseded, UserError
from finetune_trainer.fetching import fetch_base_model
from finetune_trainer.run_file import BaseModelFacts, ModelFile
from finetune_trainer.storage import ObjectStore
from finetune_trainer.trained import commit_trained, download_trained, load_trained_facts
from tests.builders.rows import make_rows

BUCKET = "train-artifacts"
FACTS = TrainedFacts(step=30, loss=0.5, checkpoint_uri=None)


@pytest.fixture(scope="module")
def store(s3_server: S3Server) -> Iterator[ObjectStore]:
    patch = pytest.MonkeyPatch()
    patch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key.identifier)
    patch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.access_key.secret)
    (s3_server.data / BUCKET).mkdir()
    yield ObjectStore.open(Store(endpoint=s3_server.endpoint))
    patch.undo()


@pytest.fixture
def layout(request: pytest.FixtureRequest) -> RunLayout:
    return RunLayout(f"s3://{BUCKET}/{request.node.name}", "tuned", "12345678")


def make_folder(path: Path) -> Path:
    path.mkdir()
    (path / "adapter_model.safetensors").write_bytes(b"weights")
    return path


def make_pointer(layout: RunLayout, completed: str) -> CurrentPointer:
    return CurrentPointer(
        run=layout.run_id,
        job_uid=layout.uid,
        adapter_uri=layout.adapter_uri,
        merged_uri=None,
        manifest_digest="0" * 64,
        completed=completed,
    )


def current_run(store: ObjectStore, layout: RunLayout) -> str:
    return CurrentPointer.model_validate_json(store.read_bytes(layout.current_uri)).run


def test_trained_adapter_comes_back_as_it_was(store: ObjectStore, layout: RunLayout, tmp_path: Path) -> None:
    assert load_trained_facts(store, layout) is None
    with pytest.raises(UserError, match="training has not finished"):
        download_trained(store, layout, tmp_path / "early")
    commit_trained(store, layout, make_folder(tmp_path / "out"), FACTS, claim_incarnation(store, layout))
    assert load_trained_facts(store, layout) == FACTS
    download_trained(store, layout, tmp_path / "in")
    assert (tmp_path / "in" / "adapter_model.safetensors").read_bytes() == b"weights"


def test_pod_that_was_replaced_cannot_end_the_run(
    store: ObjectStore, layout: RunLayout, tmp_path: Path
) -> None:
    old = claim_incarnation(store, layout)
    claim_incarnation(store, layout)
    with pytest.raises(Superseded):
        commit_trained(store, layout, make_folder(tmp_path / "out"), FACTS, old)
    assert load_trained_facts(store, layout) is None


@pytest.mark.parametrize(
    ("start", "is_found"),
    [
        pytest.param(None, True, id="a successor that has only claimed"),
        pytest.param(30, True, id="a successor that went on from the very end"),
        pytest.param(20, False, id="a successor that went on from before"),
    ],
)
def test_what_a_pod_that_was_replaced_commits_late_counts_where_its_successor_went_on_from_it(
    store: ObjectStore, layout: RunLayout, tmp_path: Path, start: int | None, is_found: bool
) -> None:
    commit_trained(store, layout, make_folder(tmp_path / "out"), FACTS, claim_incarnation(store, layout))
    successor = claim_incarnation(store, layout)
    if start is not None:
        note_start(store, layout, successor, start)
    assert load_trained_facts(store, layout) == (FACTS if is_found else None)


def test_the_newest_result_takes_the_place_of_older_ones_also_of_those_that_arrive_late(
    store: ObjectStore, layout: RunLayout, tmp_path: Path
) -> None:
    objects: list[dict[str, bytes]] = []
    for number, weights in ((1, b"older"), (2, b"newer")):
        folder = make_folder(tmp_path / str(number))
        (folder / "adapter_model.safetensors").write_bytes(weights)
        incarnation = claim_incarnation(store, layout)
        note_start(store, layout, incarnation, FACTS.step)
        commit_trained(store, layout, folder, FACTS, incarnation)
        objects.append(
            {info.uri: store.read_bytes(info.uri) for info in store.list_objects(layout.trained_uri)}
        )
    older, newer = objects
    assert all(uri.startswith(f"{layout.trained_uri}/00002/") for uri in newer)
    for uri, content in older.items():
        store.write_bytes(uri, content)
    download_trained(store, layout, tmp_path / "in")
    assert (tmp_path / "in" / "adapter_model.safetensors").read_bytes() == b"newer"


def test_current_moves_to_the_run_that_ended_last(store: ObjectStore, layout: RunLayout) -> None:
    other = RunLayout(layout.output_uri, "tuned", "87654321")
    move_current(store, layout, make_pointer(layout, "2026-01-01T10:00:00Z"))
    assert current_run(store, layout) == layout.run_id
    move_current(store, other, make_pointer(other, "2026-01-01T11:00:00Z"))
    assert current_run(store, layout) == other.run_id
    move_current(store, layout, make_pointer(layout, "2026-01-01T10:30:00Z"))
    assert current_run(store, layout) == other.run_id


def test_current_is_written_over_the_version_that_was_read_only(
    store: ObjectStore, layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"{layout.root}/object"
    assert store.replace_bytes(uri, b"one", etag=None)
    version = store.read_version(uri)
    assert version is not None and version[0] == b"one"
    store.write_bytes(uri, b"two")
    assert not store.replace_bytes(uri, b"three", etag=version[1])
    assert not store.replace_bytes(uri, b"three", etag=None)
    assert store.read_bytes(uri) == b"two"

    monkeypatch.setattr(ObjectStore, "replace_bytes", lambda *_, **__: False)
    with pytest.raises(StorageUnavailable, match="changed by others"):
        move_current(store, layout, make_pointer(layout, "2026-01-01T10:00:00Z"))


def test_only_the_files_of_prepared_data_that_are_wanted_are_fetched(
    store: ObjectStore, layout: RunLayout, tmp_path: Path
) -> None:
    folder, here = tmp_path / "prepared", tmp_path / "here"
    folder.mkdir()
    rows = make_rows([4, 9, 1, 30, 7])
    write_rows(folder / "train.arrow", rows)
    write_rows(folder / "sample.arrow", rows[:2])
    manifest = PreparedManifest(
        digest="d",
        rows=5,
        rows_validation=0,
        rows_test=0,
        rows_dropped=0,
        rows_per_epoch=5,
        tokens=51,
        learned_tokens=20,
        longest_row_tokens=30,
        mask_source="",
        chat_template="",
        files=(),
    )
    save_prepared(store, layout.prepared_uri("d"), folder, manifest)
    download_prepared(store, layout.prepared_uri("d"), here, ["sample.arrow"])
    assert [path.name for path in here.iterdir()] == ["sample.arrow"]
    sample = PreparedRows(here / "sample.arrow")
    assert [sample.row(number) for number in range(len(sample))] == rows[:2]


def test_base_model_that_was_changed_since_prepare_is_refused(
    store: ObjectStore, layout: RunLayout, tmp_path: Path
) -> None:
    uri = f"{layout.root}/base"
    store.write_bytes(f"{uri}/config.json", b"{}")
    store.write_bytes(f"{uri}/model.safetensors", b"weights")
    store.write_bytes(f"{uri}/pytorch_model.bin", b"not listed, not fetched")
    listed = [info for info in store.list_objects(uri) if not info.name.endswith(".bin")]
    facts = BaseModelFacts(
        uri=uri,
        digest="0" * 64,
        files=tuple(ModelFile(name=i.name, size_bytes=i.size_bytes, etag=i.etag) for i in listed),
        architecture="Qwen3ForCausalLM",
        model_type="qwen3",
        context_length=512,
        vocabulary_size=264,
        parameter_count=1,
        weight_dtypes=("F32",),
        target_modules=("q_proj",),
    )
    fetch_base_model(store, facts, tmp_path / "good")
    assert sorted(path.name for path in (tmp_path / "good").iterdir()) == ["config.json", "model.safetensors"]

    store.write_bytes(f"{uri}/model.safetensors", b"WEIGHTS")
    with pytest.raises(UserError, match=r"was changed after this run was prepared \(model\.safetensors\)"):
        fetch_base_model(store, facts, tmp_path / "bad")
    assert not (tmp_path / "bad").exists()
