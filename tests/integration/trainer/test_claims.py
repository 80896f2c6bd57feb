"""Who may write a run, on a real S3 server: pods that claim at once, and pods that were frozen at the worst moment."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from finetune_api.layout import RunLayout
from finetune_trainer.checkpoint_pruning import prune_checkpoints
from finetune_trainer.checkpoints import (
    CheckpointManifest,
    find_newest_checkpoint,
    restore_newest_checkpoint,
)
from finetune_trainer.claims import claim_incarnation, ensure_not_superseded, load_claims, note_start
from finetune_trainer.errors import Superseded
from finetune_trainer.retention import Retention
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
from tests.stand_ins.s3_proxy import S3Proxy, requests

CLAIM = requests("PUT", "/claims/")
LISTING = requests("GET", query="list-type=2")
NEWEST_ONLY = Retention(keep_last=1, keep_best=0)


@pytest.fixture
def save(store: ObjectStore, layout: RunLayout, tmp_path: Path) -> Callable[..., None]:
    """Save checkpoints of these steps."""

    def save_steps(*steps: int, incarnation: int) -> None:
        for step in steps:
            directory = write_state(tmp_path / "state", step)
            save_checkpoint(store, layout, directory, make_facts(step, incarnation))

    return save_steps


# --- claiming --------------------------------------------------------------------------------------------------


def test_claims_count_up(store: ObjectStore, layout: RunLayout) -> None:
    assert load_claims(store, layout).newest == 0
    assert [claim_incarnation(store, layout) for _ in range(3)] == [1, 2, 3]
    assert load_claims(store, layout).newest == 3


def test_of_many_that_claim_at_once_each_gets_a_number_of_its_own_and_the_newest_writes(
    store: ObjectStore, layout: RunLayout
) -> None:
    with ThreadPoolExecutor(16) as pool:
        numbers = list(pool.map(lambda _: claim_incarnation(store, layout), range(16)))
    assert len(set(numbers)) == 16
    newest = max(numbers)
    assert load_claims(store, layout).newest == newest
    ensure_not_superseded(store, layout, newest)
    for number in set(numbers) - {newest}:
        with pytest.raises(
            Superseded, match=f"Incarnation {newest} has taken over .* is incarnation {number} "
        ):
            ensure_not_superseded(store, layout, number)


def test_whoever_finds_a_competitor_below_its_number_goes_higher(
    proxy: S3Proxy, proxied: ObjectStore, store: ObjectStore, layout: RunLayout
) -> None:
    writing = proxy.pause(to=CLAIM)
    with ThreadPoolExecutor(1) as pool:
        claim = pool.submit(claim_incarnation, proxied, layout)
        writing.reached()
        looking = proxy.pause(to=LISTING)
        writing.release()
        looking.reached()
        store.write_bytes(layout.claim_uri(1, "competitor"), b"")
        looking.release()
        assert claim.result() == 2
    assert load_claims(store, layout).newest == 2


def test_two_that_see_each_other_below_one_number_both_go_higher(
    proxy: S3Proxy, proxied: ObjectStore, store: ObjectStore, layout: RunLayout
) -> None:
    writing = proxy.pause(to=CLAIM, times=2)
    with ThreadPoolExecutor(2) as pool:
        claims = [pool.submit(claim_incarnation, proxied, layout) for _ in range(2)]
        wait_until(lambda: writing.happened == 2, "both write their claim")
        looking = proxy.pause(to=LISTING, times=2)
        writing.release()
        wait_until(lambda: looking.happened == 2, "both look who else is there")
        looking.release()
        numbers = {claim.result() for claim in claims}
    assert len(load_claims(store, layout).tokens[1]) == 2
    assert len(numbers) == 2
    assert min(numbers) > 1
    assert load_claims(store, layout).newest == max(numbers)


def test_a_claim_that_arrives_when_others_are_far_ahead_goes_beyond_them(
    proxy: S3Proxy, proxied: ObjectStore, store: ObjectStore, layout: RunLayout
) -> None:
    writing = proxy.pause(to=CLAIM)
    with ThreadPoolExecutor(1) as pool:
        claim = pool.submit(claim_incarnation, proxied, layout)
        writing.reached()
        assert [claim_incarnation(store, layout) for _ in range(3)] == [1, 2, 3]
        writing.release()
        assert claim.result() == 4


def test_a_claim_below_the_newest_number_counts_for_nothing_even_where_nobody_else_made_it(
    proxy: S3Proxy, proxied: ObjectStore, store: ObjectStore, layout: RunLayout
) -> None:
    writing = proxy.pause(to=CLAIM)
    with ThreadPoolExecutor(1) as pool:
        claim = pool.submit(claim_incarnation, proxied, layout)
        writing.reached()
        store.write_bytes(layout.claim_uri(5, "competitor"), b"")
        writing.release()
        assert claim.result() == 6


def test_a_claim_whose_answer_gets_lost_is_still_one_claim(
    proxy: S3Proxy, proxied: ObjectStore, store: ObjectStore, layout: RunLayout
) -> None:
    lost = proxy.reset(to=CLAIM, carried_out=True)
    assert claim_incarnation(proxied, layout) == 1
    assert lost.happened == 1
    assert {number: len(tokens) for number, tokens in load_claims(store, layout).tokens.items()} == {1: 1}


def test_competitors_wait_for_different_times_before_they_go_higher(
    store: ObjectStore, layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    write = ObjectStore.write_bytes

    def meet_a_competitor(self: ObjectStore, uri: str, data: bytes) -> bool:
        number = load_claims(store, layout).newest + 1
        if number <= 3:
            write(self, layout.claim_uri(number, "competitor"), b"")
        return write(self, uri, data)

    monkeypatch.setattr(ObjectStore, "write_bytes", meet_a_competitor)
    random.seed(0)
    assert claim_incarnation(store, layout, pause=pauses.append) == 4
    assert len(set(pauses)) == 3
    assert all(0 <= pause <= 0.5 for pause in pauses)


# --- starts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("starts", "expected", "reason"),
    [
        pytest.param({}, 30, None, id="a successor that has only claimed hides nothing"),
        pytest.param({2: 30}, 30, None, id="what the successor went on from stays"),
        pytest.param({2: 20}, 20, "from step 20", id="what came after it does not"),
        pytest.param({2: 10, 3: 10}, 10, "from step 10", id="two successors from one step"),
        pytest.param({2: 20, 3: 10}, 10, "from step 10", id="the earliest start counts"),
        pytest.param({3: 20}, 20, "from step 20", id="a successor that never started counts for nothing"),
        pytest.param({2: 0}, None, "from step 0", id="a successor that began again"),
        pytest.param({1: 10}, 30, None, id="its own start hides nothing of its own"),
    ],
)
def test_commits_beyond_the_start_of_a_newer_incarnation_are_nobodys_past(
    store: ObjectStore,
    layout: RunLayout,
    save: Callable[..., None],
    starts: dict[int, int],
    expected: int | None,
    reason: str | None,
) -> None:
    save(10, 20, 30, incarnation=claim_incarnation(store, layout))
    for _ in range(2):
        claim_incarnation(store, layout)
    for incarnation, step in starts.items():
        note_start(store, layout, incarnation, step)
    found = find_newest_checkpoint(store, layout)
    assert (found.manifest.step if found.manifest else None) == expected
    late = [step for step in (30, 20, 10) if step > (expected or 0)]
    assert found.passed_over == tuple(
        f"step {step} was committed by incarnation 1 after a newer one had gone on {reason}" for step in late
    )


def test_what_successors_commit_stays_whatever_became_of_their_predecessors(
    store: ObjectStore, layout: RunLayout, save: Callable[..., None], tmp_path: Path
) -> None:
    save(10, 30, incarnation=claim_incarnation(store, layout))
    for step in (20, 40):
        incarnation = claim_incarnation(store, layout)
        note_start(store, layout, incarnation, 10 if step == 20 else 20)
        save(step, incarnation=incarnation)
    found = restore_newest_checkpoint(store, layout, tmp_path / "back")
    assert found.manifest is not None
    assert (found.manifest.step, found.manifest.incarnation, found.passed_over) == (40, 3, ())
    assert prune_checkpoints(store, layout, Retention(9, 0), 3) == [40, 20, 10]
    assert committed_steps(store, layout) == [10, 20, 40]


# --- fencing ---------------------------------------------------------------------------------------------------


def test_an_older_incarnation_can_neither_commit_nor_prune(
    store: ObjectStore, layout: RunLayout, save: Callable[..., None]
) -> None:
    old = claim_incarnation(store, layout)
    save(10, 20, 30, incarnation=old)
    new = claim_incarnation(store, layout)
    with pytest.raises(Superseded, match="Incarnation 2 has taken over run support-bot-01234567"):
        save(40, incarnation=old)
    with pytest.raises(Superseded):
        prune_checkpoints(store, layout, NEWEST_ONLY, old)
    assert committed_steps(store, layout) == [10, 20, 30]
    assert prune_checkpoints(store, layout, Retention(2, 0), new) == [30, 20]


def test_one_that_is_superseded_while_it_uploads_does_not_commit(
    store: ObjectStore,
    layout: RunLayout,
    save: Callable[..., None],
    proxy: S3Proxy,
    proxied: ObjectStore,
    tmp_path: Path,
) -> None:
    old = claim_incarnation(store, layout)
    save(10, incarnation=old)
    pause = proxy.pause(to=requests("PUT", "/step-00000020/00001/state.json"))
    with ThreadPoolExecutor(1) as pool:
        saving = pool.submit(save_all, proxied, layout, tmp_path / "old", 20, old)
        pause.reached()
        claim_incarnation(store, layout)
        pause.release()
        with pytest.raises(Superseded):
            saving.result()
    assert uncommitted_folders(store, layout) == {"step-00000020/00001"}


def test_an_old_writer_that_wakes_up_cannot_touch_the_files_of_its_successor(
    store: ObjectStore,
    layout: RunLayout,
    save: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = claim_incarnation(store, layout)
    upload = ObjectStore.upload_files

    def paused_while_another_commits(
        self: ObjectStore, files: dict[str, Path], is_cancelled: Callable[[], bool]
    ) -> None:
        monkeypatch.setattr(ObjectStore, "upload_files", upload)
        save(20, incarnation=claim_incarnation(store, layout))
        for path in files.values():
            path.write_bytes(
                bytes(path.stat().st_size)
            )  # digests may have been made before: sizes must agree
        upload(self, files, is_cancelled)

    monkeypatch.setattr(ObjectStore, "upload_files", paused_while_another_commits)
    with pytest.raises(Superseded):
        save_checkpoint(store, layout, write_state(tmp_path / "old", 20), make_facts(20, old))
    found = restore_newest_checkpoint(store, layout, tmp_path / "back")
    assert found.manifest is not None
    assert found.manifest.incarnation == 2
    assert read_state(tmp_path / "back") == state_of(20)


class LateCommit:
    """Incarnation 1 has looked that it is the writer, and is frozen before its manifest of step 30 arrives."""

    def __init__(
        self, proxy: S3Proxy, proxied: ObjectStore, store: ObjectStore, layout: RunLayout, folder: Path
    ) -> None:
        self._pause = proxy.pause(to=requests("PUT", "/step-00000030/00001/manifest.json"))
        self._folder, self._proxied, self._layout = folder, proxied, layout
        self._pool = ThreadPoolExecutor(1)
        self._saving: Future[CheckpointManifest] = self._pool.submit(self._save_and_prune)
        self._pause.reached()
        self.successor = claim_incarnation(store, layout)

    def wake(self) -> None:
        """Let the manifest arrive. Whoever committed may prune nothing any more."""
        self._pause.release()
        with pytest.raises(Superseded):
            self._saving.result()
        self._pool.shutdown()

    def _save_and_prune(self) -> CheckpointManifest:
        manifest = save_all(self._proxied, self._layout, self._folder, 30, 1)
        prune_checkpoints(self._proxied, self._layout, NEWEST_ONLY, 1)
        return manifest


@pytest.fixture
def late_commit(
    store: ObjectStore,
    layout: RunLayout,
    save: Callable[..., None],
    proxy: S3Proxy,
    proxied: ObjectStore,
    tmp_path: Path,
) -> LateCommit:
    save(10, 20, incarnation=claim_incarnation(store, layout))
    return LateCommit(proxy, proxied, store, layout, tmp_path / "old")


def test_a_manifest_that_arrives_after_the_successor_has_started_is_passed_over(
    store: ObjectStore, layout: RunLayout, save: Callable[..., None], late_commit: LateCommit, tmp_path: Path
) -> None:
    found = restore_newest_checkpoint(store, layout, tmp_path / "resume")
    assert found.manifest is not None and found.manifest.step == 20
    note_start(store, layout, late_commit.successor, 20)
    late_commit.wake()
    assert committed_steps(store, layout) == [10, 20, 30]
    found = find_newest_checkpoint(store, layout)
    assert found.manifest is not None and found.manifest.step == 20
    assert found.passed_over == (
        "step 30 was committed by incarnation 1 after a newer one had gone on from step 20",
    )

    save(30, incarnation=late_commit.successor)
    assert prune_checkpoints(store, layout, NEWEST_ONLY, late_commit.successor) == [30]
    newest = find_newest_checkpoint(store, layout)
    assert newest.manifest is not None
    assert (newest.manifest.incarnation, newest.passed_over) == (2, ())
    folders = {info.name.rpartition("/")[0] for info in store.list_objects(layout.checkpoints_uri)}
    assert {"/".join(folder.split("/")[:2]) for folder in folders} == {"step-00000030/00002"}


def test_a_manifest_that_arrives_before_the_successor_has_looked_is_gone_on_from(
    store: ObjectStore, layout: RunLayout, late_commit: LateCommit, tmp_path: Path
) -> None:
    late_commit.wake()
    found = restore_newest_checkpoint(store, layout, tmp_path / "resume")
    assert found.manifest is not None
    note_start(store, layout, late_commit.successor, found.manifest.step)
    again = find_newest_checkpoint(store, layout)
    assert again.manifest is not None
    assert (again.manifest.step, again.manifest.incarnation, again.passed_over) == (30, 1, ())
    assert committed_steps(store, layout) == [10, 20, 30]


def save_all(
    store: ObjectStore, layout: RunLayout, directory: Path, step: int, incarnation: int
) -> CheckpointManifest:
    """Save a step's state, as the writer of that number."""
    return save_checkpoint(store, layout, write_state(directory, step), make_facts(step, incarnation))
