"""Event files on a real S3 server: attempts on different pods leave one curve there."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from finetune_api.layout import RunLayout
from finetune_api.spec import Store, Tracking
from finetune_trainer.event_files import publish_event_files
from finetune_trainer.storage import ObjectStore
from finetune_trainer.trackers import EventFolder, decide_event_folders, decide_trackers
from tests.builders.tracking import Attempt, make_run, name_hosts, written_lines

TRACKING = Tracking.model_validate({"tensorBoard": {}})


def event_folder(layout: RunLayout, pod: Path) -> EventFolder:
    (folder,) = decide_event_folders(TRACKING, layout, Store(), pod)
    return folder


def test_the_curve_in_the_store_goes_on_over_a_pod_that_was_killed(
    store: ObjectStore, layout: RunLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first pod publishes with its checkpoint of step 2 and dies after step 4; the second begins with step 3."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    name_hosts(monkeypatch)
    metrics, uri = tmp_path / "metrics.jsonl", event_folder(layout, tmp_path).uri
    first, second = make_run(), make_run(attempt=2, first_step=2)
    killed = Attempt(metrics, list(decide_trackers(TRACKING, first, tmp_path / "pod-1")), first)
    killed.begin()
    for step in (1, 2, 3, 4):
        killed.step(step)
        if step == 2:
            killed.callback.settle()
            publish_event_files(store, uri, event_folder(layout, tmp_path / "pod-1").folder)
    Attempt(metrics, list(decide_trackers(TRACKING, second, tmp_path / "pod-2")), second).train(3, 4, 5)
    publish_event_files(store, uri, event_folder(layout, tmp_path / "pod-2").folder)
    killed.callback.close(is_done=False)

    assert uri == f"{layout.run_uri}/tensorboard"
    store.download_folder(uri, tmp_path / "seen")
    events = EventAccumulator(str(tmp_path / "seen"))
    events.Reload()
    for name, points in written_lines(metrics).items():
        shown = events.Scalars(f"train/{name}")
        assert [each.step for each in shown] == [step for step, _ in points]
        assert [each.value for each in shown] == pytest.approx([value for _, value in points])


def test_a_store_that_refuses_event_files_stops_nobody(
    store: ObjectStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "events").touch()

    assert not publish_event_files(store, "s3://no-such-bucket/tensorboard", tmp_path)
    (warning,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert "did not get to s3://no-such-bucket/tensorboard" in warning.getMessage()


def test_nothing_to_publish_is_published(store: ObjectStore, layout: RunLayout, tmp_path: Path) -> None:
    assert publish_event_files(store, f"{layout.run_uri}/tensorboard", tmp_path / "nothing")
    assert store.list_objects(f"{layout.run_uri}/tensorboard") == []
