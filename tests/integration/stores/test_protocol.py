"""The commit protocol on three stores: with conditional writes, with them but without any check, and without any.

It asks of a store that a listing shows what was written. prepare refuses one that does not, by a sentence.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from finetune_api.layout import RunLayout
from finetune_api.termination import TrainedFacts
from finetune_trainer.checkpoint_pruning import prune_checkpoints
from finetune_trainer.checkpoints import (
    Withdrawn,
    find_newest_checkpoint,
    restore_newest_checkpoint,
)
from finetune_trainer.claims import claim_incarnation, load_claims, note_start
from finetune_trainer.errors import Superseded
from finetune_trainer.prepare import check_output
from finetune_trainer.retention import Retention
from finetune_trainer.spool import Spool, UploadState
from finetune_trainer.storage import ObjectStore
from finetune_trainer.trained import commit_trained, download_trained, find_trained
from finetune_trainer.uploader import Uploader
from tests.builders.checkpoints import (
    begin_upload,
    committed_steps,
    files_in,
    make_facts,
    make_order,
    read_state,
    save_checkpoint,
    state_of,
    uncommitted_folders,
    unfinished_uploads,
    write_state,
)
from tests.builders.deadlines import wait_until

ALL = Retention(keep_last=10, keep_best=0)


@pytest.fixture
def layout(bucket: str) -> RunLayout:
    """A run in the bucket."""
    return RunLayout(output_uri=f"s3://{bucket}/support-bot", name="support-bot", uid="0123456789abcdef")


def test_prepare_takes_the_store_for_the_output(store: ObjectStore, layout: RunLayout) -> None:
    check_output(store, layout)
    assert store.list_objects(layout.run_uri) == []


def test_claims_at_once_all_differ_and_the_newest_is_the_writer(
    store: ObjectStore, layout: RunLayout
) -> None:
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda _: claim_incarnation(store, layout), range(8)))
    assert len(set(numbers)) == 8
    assert load_claims(store, layout).newest == max(numbers)


def test_a_checkpoint_comes_back_and_a_damaged_one_is_passed_over(
    store: ObjectStore, layout: RunLayout, tmp_path: Path
) -> None:
    incarnation = claim_incarnation(store, layout)
    for step in (10, 20):
        save_checkpoint(store, layout, write_state(tmp_path / str(step), step), make_facts(step, incarnation))
    assert restore_newest_checkpoint(store, layout, tmp_path / "back").manifest is not None
    assert read_state(tmp_path / "back") == state_of(20)
    damaged = f"{layout.checkpoint_uri(20)}/{incarnation:05d}/state.json"
    store.write_bytes(damaged, store.read_bytes(damaged)[::-1])
    found = restore_newest_checkpoint(store, layout, tmp_path / "back")
    assert found.manifest is not None and found.manifest.step == 10
    assert found.passed_over == ("step 20: state.json does not have the CRC64-NVME of its manifest",)


def test_who_was_superseded_commits_nothing_and_what_slips_through_does_not_count(
    store: ObjectStore, layout: RunLayout, tmp_path: Path
) -> None:
    old = claim_incarnation(store, layout)
    save_checkpoint(store, layout, write_state(tmp_path / "10", 10), make_facts(10, old))
    late = write_state(tmp_path / "20", 20)
    save_checkpoint(store, layout, late, make_facts(20, old))
    new = claim_incarnation(store, layout)
    note_start(store, layout, new, 10)
    with pytest.raises(Superseded):
        save_checkpoint(store, layout, late, make_facts(30, old))
    with pytest.raises(Superseded):
        prune_checkpoints(store, layout, ALL, old)
    found = find_newest_checkpoint(store, layout)
    assert found.manifest is not None and found.manifest.step == 10
    assert found.passed_over == (
        "step 20 was committed by incarnation 1 after a newer one had gone on from step 10",
    )


def test_what_was_left_unfinished_goes_with_the_next_commit(
    store: ObjectStore, layout: RunLayout, tmp_path: Path
) -> None:
    old = claim_incarnation(store, layout)
    store.write_bytes(f"{layout.checkpoint_uri(10)}/{old:05d}/state.json", b"half")
    begin_upload(store, f"{layout.checkpoint_uri(10)}/{old:05d}/parameters-00000.safetensors")
    new = claim_incarnation(store, layout)
    for step in (20, 30, 40):
        save_checkpoint(store, layout, write_state(tmp_path / str(step), step), make_facts(step, new))
    assert prune_checkpoints(store, layout, Retention(keep_last=2, keep_best=0), new) == [40, 30]
    assert committed_steps(store, layout) == [30, 40]
    assert uncommitted_folders(store, layout) == set()
    assert unfinished_uploads(store, layout) == []


def is_settled(spool: Spool, number: int) -> bool:
    report = spool.report()
    return report.order == number and report.state is UploadState.IDLE


def test_the_uploader_saves_orders_and_leaves_out_what_was_withdrawn(
    store: ObjectStore, layout: RunLayout, tmp_path: Path
) -> None:
    incarnation = claim_incarnation(store, layout)
    spool_folder = tmp_path / "spool"
    spool_folder.mkdir()
    spool = Spool(spool_folder)
    server = threading.Thread(target=Uploader(store, layout, spool).run)
    server.start()
    try:
        for step in (10, 20):
            files = files_in(write_state(tmp_path / str(step), step))
            spool.place(make_order(make_facts(step, incarnation), files))
            wait_until(partial(is_settled, spool, step), f"step {step} is saved")
    finally:
        spool.close()
        server.join()
    committed = spool.report().committed
    assert committed is not None and committed.step == 20
    assert committed_steps(store, layout) == [10, 20]
    with pytest.raises(Withdrawn):
        save_checkpoint(
            store,
            layout,
            write_state(tmp_path / "30", 30),
            make_facts(30, incarnation),
            is_withdrawn=lambda: True,
        )
    assert committed_steps(store, layout) == [10, 20]


def test_the_result_of_training_is_the_newest_incarnations(
    store: ObjectStore, layout: RunLayout, tmp_path: Path
) -> None:
    for number in (1, 2):
        incarnation = claim_incarnation(store, layout)
        note_start(store, layout, incarnation, 30)
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "adapter_model.safetensors").write_bytes(bytes([number]))
        commit_trained(store, layout, folder, TrainedFacts(step=30), incarnation)
    found = find_trained(store, layout)
    assert found is not None and found.uri.endswith("/trained/00002")
    download_trained(store, layout, tmp_path / "back")
    assert (tmp_path / "back/adapter_model.safetensors").read_bytes() == b"\x02"
