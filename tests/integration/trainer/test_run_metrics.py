"""The metrics of a run on a real S3 server: its newest writer's lines stand, whenever an older one wakes up."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_api.layout import RunLayout
from finetune_trainer.claims import claim_incarnation
from finetune_trainer.errors import StorageUnavailable, Superseded
from finetune_trainer.run_metrics import publish_metrics
from finetune_trainer.storage import ObjectStore


def write_lines(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_each_writing_replaces_the_one_before(store: ObjectStore, layout: RunLayout, tmp_path: Path) -> None:
    incarnation = claim_incarnation(store, layout)
    for text in ("1\n", "1\n2\n", "1\n2\n", "1\n2\n3\n"):
        publish_metrics(store, layout, write_lines(tmp_path / "metrics.jsonl", text), incarnation)

    assert store.read_bytes(layout.metrics_uri) == b"1\n2\n3\n"


def test_an_older_incarnation_writes_nothing(store: ObjectStore, layout: RunLayout, tmp_path: Path) -> None:
    old, new = claim_incarnation(store, layout), claim_incarnation(store, layout)
    publish_metrics(store, layout, write_lines(tmp_path / "new", "new\n"), new)

    with pytest.raises(Superseded):
        publish_metrics(store, layout, write_lines(tmp_path / "old", "old\n"), old)

    assert store.read_bytes(layout.metrics_uri) == b"new\n"


@pytest.mark.parametrize("first", ["", "old\n"], ids=["nothing was there", "its own lines were there"])
def test_one_that_was_frozen_right_before_it_wrote_changes_nothing_when_it_wakes_up(
    store: ObjectStore, layout: RunLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    old = claim_incarnation(store, layout)
    if first:
        publish_metrics(store, layout, write_lines(tmp_path / "old", first), old)
    replace = ObjectStore.replace_bytes

    def frozen(self: ObjectStore, uri: str, data: bytes, *, etag: str | None) -> bool:
        monkeypatch.setattr(ObjectStore, "replace_bytes", replace)
        new = claim_incarnation(store, layout)
        publish_metrics(store, layout, write_lines(tmp_path / "new", "new\n"), new)
        return replace(self, uri, data, etag=etag)

    monkeypatch.setattr(ObjectStore, "replace_bytes", frozen)
    with pytest.raises(Superseded):
        publish_metrics(store, layout, write_lines(tmp_path / "old", "old\nstale\n"), old)

    assert store.read_bytes(layout.metrics_uri) == b"new\n"


def test_an_object_that_never_stands_still_is_an_error_that_is_tried_again(
    store: ObjectStore, layout: RunLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ObjectStore, "replace_bytes", lambda *_, **__: False)

    with pytest.raises(StorageUnavailable, match=r"metrics.jsonl was changed by others 5 times in a row"):
        publish_metrics(
            store, layout, write_lines(tmp_path / "metrics.jsonl", "1\n"), claim_incarnation(store, layout)
        )
