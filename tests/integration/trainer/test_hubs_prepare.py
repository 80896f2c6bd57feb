"""The whole prepare stage with model and data of a hub: what later pods need is in the store, and no token is anywhere."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_api.layout import RunLayout
from finetune_trainer.errors import UserError
from finetune_trainer.fetching import fetch_base_model
from finetune_trainer.run_file import load_run_file
from finetune_trainer.storage import ObjectStore
from tests.integration.trainer.conftest import mount_secret
from tests.integration.trainer.workbench import ROWS, Workbench
from tests.stand_ins.hub_server import connect_directly
from tests.stand_ins.hugging_face_hub import HuggingFaceHub

TOKEN = "hf_canary_of_this_test"
JOB = {
    "model__source": "hf://Qwen/tiny",
    "model__tokenSecretRef": {"name": "hub"},
    "dataset__train": [{"source": "hf://org/rows", "tokenSecretRef": {"name": "hub"}}],
}


@pytest.fixture
def hub(
    bench: Workbench, config_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[HuggingFaceHub]:
    """A hub with the bench's model, gated, and its rows, private."""
    connect_directly(monkeypatch)
    mount_secret(config_directory, "hub", token=TOKEN)
    with HuggingFaceHub() as hub:
        hub.commit("Qwen/tiny", {path.name: path.read_bytes() for path in bench.model.iterdir()})
        rows = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
        hub.commit("org/rows", {"train.jsonl": rows, "test.jsonl": rows}, kind="dataset")
        hub.gate("Qwen/tiny", readers={TOKEN})
        hub.hide("org/rows", readers={TOKEN}, kind="dataset")
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        yield hub


def test_a_run_from_a_hub_needs_the_hub_no_more(
    bench: Workbench, hub: HuggingFaceHub, store: ObjectStore, layout: RunLayout, tmp_path: Path
) -> None:
    assert bench.run(**JOB).reason == "Prepared"

    run_file = load_run_file(store, layout)
    assert (run_file.model.source, run_file.model.revision) == ("hf://Qwen/tiny", hub.commit_of("Qwen/tiny"))
    assert run_file.model.uri.startswith(f"{layout.root}/.cache/models/")
    assert run_file.dataset.rows_used == len(ROWS)
    hub.seen.clear()
    fetch_base_model(store, run_file.model, tmp_path / "fetched")
    assert hub.seen == []
    assert (tmp_path / "fetched/model.safetensors").read_bytes() == (
        bench.model / "model.safetensors"
    ).read_bytes()


def test_a_second_attempt_gives_the_same_run_file(
    bench: Workbench, hub: HuggingFaceHub, store: ObjectStore, layout: RunLayout
) -> None:
    first = bench.run(**JOB)
    before = store.read_bytes(layout.run_file_uri)

    assert bench.run(**JOB) == first
    assert store.read_bytes(layout.run_file_uri) == before


def test_the_token_is_neither_logged_nor_stored(
    bench: Workbench,
    hub: HuggingFaceHub,
    store: ObjectStore,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    caplog.set_level(logging.DEBUG)
    bench.run(**JOB)

    assert "hf://Qwen/tiny" in caplog.text
    assert TOKEN not in caplog.text
    assert hub.content.SIGNATURE not in caplog.text
    stored = [path for path in bench.folder.rglob("*") if path.is_file()]
    assert stored
    assert not [path for path in stored if TOKEN.encode() in path.read_bytes()]
    assert list((tmp_path / "work").iterdir()) == []


def test_a_gated_model_is_refused_with_what_to_do(bench: Workbench, hub: HuggingFaceHub) -> None:
    with pytest.raises(UserError, match=r"hf://Qwen/tiny is gated: its terms must be accepted first"):
        bench.run(**{**JOB, "model__tokenSecretRef": ...})
