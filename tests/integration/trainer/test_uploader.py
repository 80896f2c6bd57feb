"""The uploader between a pod's ranks and a real S3 server that goes wrong: what is committed, and what ranks hear."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune_api.layout import RunLayout
from finetune_api.spec import SecretRef, Store
from finetune_trainer import uploader
from finetune_trainer.checkpoints import Place, find_newest_checkpoint, restore_newest_checkpoint
from finetune_trainer.claims import claim_incarnation
from finetune_trainer.run_metrics import METRICS_NAME
from finetune_trainer.spool import UploadReport, UploadState
from finetune_trainer.storage import ObjectStore
from tests.builders.checkpoints import (
    committed_steps,
    make_facts,
    read_state,
    save_checkpoint,
    state_of,
    uncommitted_folders,
    write_state,
)
from tests.builders.deadlines import wait_until
from tests.integration.trainer.conftest import mount_secret
from tests.integration.trainer.pods import Pod
from tests.stand_ins.s3_exchange import Match
from tests.stand_ins.s3_proxy import S3Proxy, requests

IDLE, UPLOADING, WAITING, FAILED = (
    UploadState.IDLE,
    UploadState.UPLOADING,
    UploadState.WAITING,
    UploadState.FAILED,
)
# Whoever waits for something that hangs waits for longer.
SOON_SECONDS = 20.0


@pytest.fixture
def pod(proxied: ObjectStore, layout: RunLayout, tmp_path: Path) -> Pod:
    """A pod whose uploader speaks to the store through the proxy."""
    return Pod(proxied, layout, tmp_path / "pod")


def put(step: int, name: str) -> Match:
    """The request that brings a file of a checkpoint."""
    return requests("PUT", f"/step-{step:08d}/00001/{name}$")


def looks_at(step: int) -> Match:
    """The listing by which a commit makes sure that all files are there."""
    return requests("GET", query=f"list-type=2.*prefix=[^&]*step-{step:08d}")


LOOKS_WHO_WRITES = requests("GET", query="list-type=2.*prefix=[^&]*claims")


# --- one order after the other ---------------------------------------------------------------------------------


def test_an_order_is_committed_and_reported(
    store: ObjectStore, layout: RunLayout, pod: Pod, tmp_path: Path
) -> None:
    write_state(pod.state, 10)
    (pod.state / METRICS_NAME).write_text("metrics up to step 10")
    with pod:
        report = pod.save(10, step_ended=time.time() - 100)
    found = restore_newest_checkpoint(store, layout, tmp_path / "back")
    assert found.manifest is not None
    assert read_state(tmp_path / "back") == {**state_of(10), METRICS_NAME: b"metrics up to step 10"}
    assert store.read_bytes(layout.metrics_uri) == b"metrics up to step 10"

    committed = report.committed
    assert committed is not None
    assert (report.state, report.message, report.error, report.waiting_since) == (IDLE, "", "", None)
    assert (committed.step, committed.uri) == (10, Place(layout, 10, 1).uri)
    assert (committed.time, committed.size_bytes) == (found.manifest.created, found.manifest.size_bytes)
    assert committed.save_seconds is not None
    assert 100 <= committed.save_seconds < 100 + SOON_SECONDS


def test_a_clock_that_was_set_back_meanwhile_is_no_failure(pod: Pod) -> None:
    with pod:
        report = pod.save(10, step_ended=time.time() + 100)
    assert report.committed is not None
    assert report.committed.save_seconds == 0


def test_orders_say_how_many_checkpoints_are_kept(store: ObjectStore, layout: RunLayout, pod: Pod) -> None:
    with pod:
        for step, loss in ((10, 0.1), (20, 0.9), (30, 0.8)):
            pod.save(step, eval_loss=loss, keep_last=1, keep_best=1)
    assert committed_steps(store, layout) == [10, 30]


def test_it_ends_when_the_spool_is_closed_and_all_is_saved(
    store: ObjectStore, layout: RunLayout, pod: Pod
) -> None:
    pod.hand_over(10)
    pod.run_to_the_end()
    assert committed_steps(store, layout) == [10]


def test_one_that_is_started_again_does_not_save_again_what_is_saved(
    store: ObjectStore, layout: RunLayout, pod: Pod, proxy: S3Proxy
) -> None:
    with pod:
        pod.save(10)
    requests_before = len(proxy.seen)
    again = pod.again()
    again.hand_over(10, number=1)
    again.run_to_the_end()
    assert len(proxy.seen) == requests_before


def test_what_a_dead_uploader_has_committed_is_reported_and_not_written_over(
    store: ObjectStore, layout: RunLayout, pod: Pod, proxy: S3Proxy
) -> None:
    manifest = save_checkpoint(store, layout, write_state(pod.state, 10), make_facts(10))
    pod.spool.write_report(UploadReport(order=1, state=UPLOADING))
    again = pod.again()
    again.hand_over(10)
    again.run_to_the_end()
    report = pod.spool.report()
    assert (report.order, report.state) == (1, IDLE)
    assert report.committed is not None
    assert (report.committed.step, report.committed.time) == (10, manifest.created)
    assert proxy.count("PUT") == 0


# --- withdrawn orders ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(LOOKS_WHO_WRITES, id="before the upload"),
        pytest.param(put(10, "state.json"), id="during the upload"),
    ],
)
def test_a_withdrawn_order_is_never_committed_and_the_next_one_is(
    store: ObjectStore, layout: RunLayout, pod: Pod, proxy: S3Proxy, tmp_path: Path, moment: Match
) -> None:
    pause = proxy.pause(to=moment)
    with pod:
        pod.hand_over(10)
        pause.reached()
        report = pod.wait_for(IDLE, pod.replace(20))
        pause.release()
        pod.save(30)
    assert report.committed is not None
    assert report.committed.step == 20
    assert committed_steps(store, layout) == [20, 30]
    assert proxy.count("PUT", "/step-00000010/00001/manifest.json") == 0


def test_a_state_that_changes_right_after_it_was_withdrawn_is_never_committed(
    store: ObjectStore, layout: RunLayout, pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So long that the uploader is done before it looks for orders again.
    monkeypatch.setattr(uploader, "_POLL_SECONDS", 1.0)
    upload, is_uploaded = ObjectStore.upload_files, threading.Event()

    def upload_while_the_state_changes(
        self: ObjectStore, files: dict[str, Path], is_cancelled: Callable[[], bool]
    ) -> None:
        first, *others = files
        upload(self, {first: files[first]}, is_cancelled)
        pod.spool.withdraw()
        write_state(pod.state, 11)
        upload(self, {uri: files[uri] for uri in others}, is_cancelled)
        is_uploaded.set()

    monkeypatch.setattr(ObjectStore, "upload_files", upload_while_the_state_changes)
    pod.hand_over(10)
    with pod:
        assert is_uploaded.wait(SOON_SECONDS)
    assert uncommitted_folders(store, layout) == {"step-00000010/00001"}
    assert pod.spool.report().state is UPLOADING


def test_a_file_that_changes_while_it_is_sent_is_no_failure_once_its_order_is_withdrawn(
    store: ObjectStore, layout: RunLayout, pod: Pod, proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploader, "_POLL_SECONDS", 1.0)
    pause = proxy.pause(to=put(10, "state.json"))
    pod.hand_over(10)
    with pod:
        pause.reached()
        pod.spool.withdraw()
        write_state(pod.state, 11)
        pause.release()
    assert committed_steps(store, layout) == []
    assert pod.spool.report().state is UPLOADING


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(LOOKS_WHO_WRITES, id="before the upload"),
        pytest.param(requests("PUT", "/state.json"), id="during the upload"),
        pytest.param(requests("PUT", "/manifest.json"), id="during the commit"),
    ],
)
def test_a_request_that_hangs_keeps_neither_the_next_order_nor_the_end_waiting(
    store: ObjectStore, layout: RunLayout, pod: Pod, proxy: S3Proxy, moment: Match
) -> None:
    began = time.monotonic()
    with pod:
        hanging = proxy.hang(to=moment, times=1)
        pod.hand_over(10)
        wait_until(lambda: hanging.happened, "the first order hangs")
        pod.wait_for(IDLE, pod.replace(20))
        hanging = proxy.hang(to=moment, times=1)
        pod.replace(30)
        wait_until(lambda: hanging.happened, "the last order hangs")
    # It would be given up after a minute.
    assert time.monotonic() - began < 40
    assert committed_steps(store, layout) == [20]


def test_an_order_that_is_committed_after_it_was_replaced_says_no_more(
    store: ObjectStore, layout: RunLayout, pod: Pod, proxy: S3Proxy
) -> None:
    pause = proxy.pause(to=put(10, "manifest.json"))
    with pod:
        pod.hand_over(10)
        pause.reached()
        replaced = pod.wait_for(IDLE, pod.replace(20))
        pause.release()
        wait_until(lambda: not runs_order(1), "the first order has come to an end")
        assert pod.spool.report() == replaced
    assert replaced.committed is not None
    assert replaced.committed.step == 20
    assert committed_steps(store, layout) == [20]


def runs_order(number: int) -> bool:
    """Whether an uploader of this process is still busy with that order."""
    return any(thread.name == f"order {number}" for thread in threading.enumerate())


def test_metrics_of_an_older_state_never_go_over_those_of_a_newer_one(
    store: ObjectStore, layout: RunLayout, pod: Pod, proxy: S3Proxy
) -> None:
    """The older order is committed, and withdrawn while it tidies up; the store answers it when the newer is saved."""
    write_state(pod.state, 10)
    (pod.state / METRICS_NAME).write_text("metrics up to step 10")
    looking = proxy.pause(to=requests("GET", "/metrics.jsonl"))
    with pod:
        pod.hand_over(10)
        looking.reached()
        (pod.state / METRICS_NAME).write_text("metrics up to step 20")
        pod.wait_for(IDLE, pod.replace(20))
        looking.release()
        wait_until(
            lambda: "order 1" not in {thread.name for thread in threading.enumerate()}, "the older one ends"
        )
    assert store.read_bytes(layout.metrics_uri) == b"metrics up to step 20"


# --- a store that goes wrong -----------------------------------------------------------------------------------


def test_a_store_that_is_away_is_waited_for(
    store: ObjectStore, layout: RunLayout, pod: Pod, proxy: S3Proxy, tmp_path: Path
) -> None:
    proxy.outage()
    began = time.time()
    with pod:
        order = pod.hand_over(10)
        waiting = pod.wait_for(WAITING, order)
        assert waiting.message.startswith("Could not read s3://")
        assert f"{proxy.url} does not answer" in waiting.message
        assert waiting.waiting_since is not None
        assert began <= waiting.waiting_since <= time.time()
        wait_until(lambda: len(pod.pauses) >= 2, "it has tried again")
        assert pod.spool.report().waiting_since == waiting.waiting_since
        assert pod.spool.report().committed is None
        proxy.heal()
        report = pod.wait_for(IDLE, order)
    assert (report.message, report.waiting_since) == ("", None)
    assert pod.pauses == list(range(len(pod.pauses)))
    assert restore_newest_checkpoint(store, layout, tmp_path / "back").manifest is not None
    assert read_state(tmp_path / "back") == state_of(10)


def test_an_outage_counts_from_its_beginning_whatever_state_is_to_be_saved_meanwhile(
    pod: Pod, proxy: S3Proxy
) -> None:
    proxy.outage()
    with pod:
        first = pod.wait_for(WAITING, pod.hand_over(10))
        newer = pod.replace(20)
        assert pod.wait_for(WAITING, newer).waiting_since == first.waiting_since
        proxy.heal()
        assert pod.wait_for(IDLE, newer).waiting_since is None


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(put(10, "state.json"), id="while it uploads"),
        pytest.param(looks_at(10), id="before it commits"),
        pytest.param(put(10, "manifest.json"), id="while it commits"),
        pytest.param(
            requests("GET", query="list-type=2.*prefix=[^&]*checkpoints%2F&"), id="while it tidies up"
        ),
    ],
)
def test_a_store_that_goes_away_at_a_bad_moment_is_waited_for(
    store: ObjectStore, layout: RunLayout, pod: Pod, proxy: S3Proxy, tmp_path: Path, moment: Match
) -> None:
    with pod:
        pod.save(5)
        pause = proxy.pause(to=moment)
        order = pod.hand_over(10, keep_last=1)
        pause.reached()
        proxy.outage()
        pod.wait_for(WAITING, order)
        proxy.heal()
        report = pod.wait_for(IDLE, order)
    assert report.committed is not None
    assert report.committed.step == 10
    assert restore_newest_checkpoint(store, layout, tmp_path / "back").passed_over == ()
    assert read_state(tmp_path / "back") == state_of(10)
    assert committed_steps(store, layout) == [10]


def test_a_commit_whose_answer_gets_lost_is_made_once(
    store: ObjectStore, layout: RunLayout, pod: Pod, proxy: S3Proxy
) -> None:
    proxy.reset(to=put(10, "manifest.json"), times=2, carried_out=True)
    with pod:
        report = pod.save(10)
    assert report.committed is not None
    manifest = find_newest_checkpoint(store, layout).manifest
    assert manifest is not None
    assert report.committed.time == manifest.created
    assert proxy.count("PUT", "/step-00000010/00001/state.json") == 1


def test_errors_and_resets_at_random_delay_commits_and_prevent_none(
    store: ObjectStore, layout: RunLayout, pod: Pod, proxy: S3Proxy, tmp_path: Path
) -> None:
    slow_down = proxy.answer(503, code="SlowDown", to=requests(), share=0.15)
    resets = proxy.reset(to=requests(), share=0.05, times=20)
    lost = proxy.reset(to=requests(), share=0.05, times=20, carried_out=True)
    with pod:
        for step in (10, 20, 30, 40):
            report = pod.save(step, keep_last=2)
            assert report.committed is not None
            assert report.committed.step == step
    assert slow_down.happened
    assert resets.happened + lost.happened
    assert committed_steps(store, layout) == [30, 40]
    found = restore_newest_checkpoint(store, layout, tmp_path / "back")
    assert (found.manifest and found.manifest.step, found.passed_over) == (40, ())
    assert read_state(tmp_path / "back") == state_of(40)


def test_files_that_vanish_before_the_commit_are_uploaded_again(
    store: ObjectStore, layout: RunLayout, pod: Pod, proxy: S3Proxy, tmp_path: Path
) -> None:
    pause = proxy.pause(to=looks_at(10))
    with pod:
        order = pod.hand_over(10)
        pause.reached()
        store.delete([f"{Place(layout, 10, 1).uri}/state.json"])
        pause.release()
        pod.wait_for(IDLE, order)
    assert pod.pauses == [0]
    assert restore_newest_checkpoint(store, layout, tmp_path / "back").passed_over == ()
    assert read_state(tmp_path / "back") == state_of(10)


# --- what trying again does not mend ---------------------------------------------------------------------------


def denied(store_settings: Store, layout: RunLayout, config_directory: Path) -> tuple[Store, RunLayout]:
    mount_secret(config_directory, "wrong", AWS_ACCESS_KEY_ID="nobody", AWS_SECRET_ACCESS_KEY="wrong")
    return store_settings.model_copy(update={"credentials_secret_ref": SecretRef(name="wrong")}), layout


def without_bucket(
    store_settings: Store, layout: RunLayout, config_directory: Path
) -> tuple[Store, RunLayout]:
    return store_settings, RunLayout("s3://no-such-bucket/support-bot", layout.name, layout.uid)


def superseded(store_settings: Store, layout: RunLayout, config_directory: Path) -> tuple[Store, RunLayout]:
    store = ObjectStore.open(store_settings)
    assert [claim_incarnation(store, layout) for _ in range(2)] == [1, 2]
    return store_settings, layout


@pytest.mark.parametrize(
    ("scene", "error", "message"),
    [
        pytest.param(denied, "StorageDenied", "refuses to .* in Secret 'wrong'", id="keys that nobody knows"),
        pytest.param(
            without_bucket, "ObjectMissing", "Bucket 'no-such-bucket' does not exist", id="no bucket"
        ),
        pytest.param(superseded, "Superseded", "Incarnation 2 has taken over", id="a newer writer"),
    ],
)
def test_what_trying_again_does_not_mend_is_a_failure(
    store_settings: Store,
    layout: RunLayout,
    config_directory: Path,
    tmp_path: Path,
    scene: Callable[[Store, RunLayout, Path], tuple[Store, RunLayout]],
    error: str,
    message: str,
) -> None:
    settings, layout = scene(store_settings, layout, config_directory)
    with Pod(ObjectStore.open(settings, max_attempts=2), layout, tmp_path / "pod") as pod:
        report = pod.wait_for(FAILED, pod.hand_over(10))
    assert report.error == error
    assert re.search(message, report.message), report.message
    assert (pod.pauses, report.committed) == ([], None)


def test_one_that_is_superseded_between_upload_and_commit_fails_and_commits_nothing(
    store: ObjectStore, layout: RunLayout, pod: Pod, proxy: S3Proxy
) -> None:
    assert claim_incarnation(store, layout) == 1
    pause = proxy.pause(to=looks_at(10))
    with pod:
        order = pod.hand_over(10)
        pause.reached()
        claim_incarnation(store, layout)
        pause.release()
        report = pod.wait_for(FAILED, order)
    assert report.error == "Superseded"
    assert committed_steps(store, layout) == []


def test_a_file_that_is_gone_is_a_failure_of_its_order_alone(
    store: ObjectStore, layout: RunLayout, pod: Pod
) -> None:
    order = pod.hand_over(10)
    pod.forget_state()
    with pod:
        report = pod.wait_for(FAILED, order)
        assert report.error == "FileNotFoundError"
        assert "state" in report.message
        recovered = pod.save(20)
    assert (recovered.message, recovered.error) == ("", "")
    assert committed_steps(store, layout) == [20]


# --- several pods ----------------------------------------------------------------------------------------------


class Gang:
    """Two pods, each with files of its own."""

    def __init__(self, store: ObjectStore, layout: RunLayout, folder: Path) -> None:
        self.first = Pod(store, layout, folder / "first", node=0, nodes=2)
        self.second = Pod(store, layout, folder / "second", node=1, nodes=2)
        self.second.prefix = "second/"


@pytest.fixture
def gang(proxied: ObjectStore, layout: RunLayout, tmp_path: Path) -> Gang:
    return Gang(proxied, layout, tmp_path)


def waits_for_parts(proxy: S3Proxy) -> bool:
    """Whether a first pod has looked what the others have brought: its own files are there then."""
    return any(each.query.get("prefix", "").endswith("/parts/") for each in tuple(proxy.seen))


def state_of_both(step: int) -> dict[str, bytes]:
    """The files of both pods."""
    return {**state_of(step), **{f"second/{name}": content for name, content in state_of(step).items()}}


def test_the_first_pod_commits_when_the_other_one_has_uploaded_its_part(
    store: ObjectStore, layout: RunLayout, gang: Gang, proxy: S3Proxy, tmp_path: Path
) -> None:
    with gang.first, gang.second:
        order = gang.first.hand_over(10)
        wait_until(lambda: waits_for_parts(proxy), "the first pod's files are there")
        assert committed_steps(store, layout) == []
        assert gang.first.spool.report().state is UPLOADING

        part = gang.second.save(10)
        report = gang.first.wait_for(IDLE, order)
    assert part.committed is None
    assert report.committed is not None
    assert report.committed.size_bytes == sum(map(len, state_of_both(10).values()))
    assert restore_newest_checkpoint(store, layout, tmp_path / "back").passed_over == ()
    assert read_state(tmp_path / "back") == state_of_both(10)


def test_a_part_that_was_there_first_is_not_waited_for(
    store: ObjectStore, layout: RunLayout, gang: Gang
) -> None:
    with gang.first, gang.second:
        gang.second.save(10)
        assert committed_steps(store, layout) == []
        gang.first.save(10)
    assert committed_steps(store, layout) == [10]


def test_a_part_that_comes_after_the_first_pod_has_moved_on_commits_nothing(
    store: ObjectStore, layout: RunLayout, gang: Gang, proxy: S3Proxy
) -> None:
    with gang.first, gang.second:
        gang.first.hand_over(10)
        wait_until(lambda: waits_for_parts(proxy), "the first pod's files are there")
        order = gang.first.replace(20)
        wait_until(lambda: not runs_order(1), "the part of step 10 is no more waited for")
        gang.second.save(10)
        gang.second.save(20)
        gang.first.wait_for(IDLE, order)
    assert committed_steps(store, layout) == [20]
    assert uncommitted_folders(store, layout) == set()


def test_a_part_that_never_comes_is_named(
    gang: Gang, layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploader, "_PARTS_PATIENCE_SECONDS", 0.1)
    with gang.first:
        report = gang.first.wait_for(WAITING, gang.first.hand_over(10))
    uri = Place(layout, 10, 1).uri
    assert report.message.startswith(f"Not all pods have uploaded their part of {uri}.")
