"""The commit protocol on a real S3 server: what a reader finds after crashes, damage and competing writers."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from devcluster import S3Server
from finetune_api.layout import RunLayout
from finetune_trainer.checkpoints import (
    CheckpointCorrupt,
    CheckpointFacts,
    claim_incarnation,
    download_checkpoint,
    find_newest_checkpoint,
    prune_checkpoints,
    restore_newest_checkpoint,
    save_checkpoint,
)
from finetune_trainer.errors import StorageUnavailable, Superseded
from finetune_trainer.storage import ObjectStore

FILES = {"adapter.safetensors": b"a" * 5000, "optimizer/rank-0.safetensors": b"o" * 7000, "state.json": b"{}"}


def make_facts(step: int, incarnation: int = 1) -> CheckpointFacts:
    return CheckpointFacts(
        step=step,
        epoch=step / 10,
        loss=1.0,
        world_size=1,
        attempt=1,
        incarnation=incarnation,
        model_digest="m",
        dataset_digest="d",
    )


def write_state(directory: Path, step: int) -> Path:
    """A state whose bytes tell the step."""
    for name, content in FILES.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content + str(step).encode())
    return directory


@pytest.fixture
def save(store: ObjectStore, layout: RunLayout, tmp_path: Path) -> Callable[..., None]:
    """Save checkpoints of these steps, as incarnation 1 unless told otherwise."""

    def save_steps(*steps: int, incarnation: int = 1) -> None:
        for step in steps:
            save_checkpoint(
                store, layout, write_state(tmp_path / "state", step), make_facts(step, incarnation)
            )

    return save_steps


def object_path(s3_server: S3Server, uri: str) -> Path:
    """The file behind an object, to damage it."""
    return s3_server.data / uri.removeprefix("s3://")


def data_path(s3_server: S3Server, layout: RunLayout, step: int, name: str, incarnation: int = 1) -> Path:
    return object_path(s3_server, f"{layout.checkpoint_uri(step)}/{incarnation:05d}/{name}")


# --- saving and finding ----------------------------------------------------------------------------------------


def test_a_saved_checkpoint_is_found_and_comes_back_whole(
    store: ObjectStore, layout: RunLayout, save: Callable[..., None], tmp_path: Path
) -> None:
    save(10, 20)
    found = restore_newest_checkpoint(store, layout, tmp_path / "back")
    assert found.manifest is not None
    assert (found.manifest.step, found.passed_over) == (20, ())
    for name, content in FILES.items():
        assert (tmp_path / "back" / name).read_bytes() == content + b"20"


def test_a_run_without_checkpoints_has_none(store: ObjectStore, layout: RunLayout, tmp_path: Path) -> None:
    found = restore_newest_checkpoint(store, layout, tmp_path / "back")
    assert (found.manifest, found.passed_over) == (None, ())


def test_saving_the_same_step_again_changes_nothing(
    store: ObjectStore, layout: RunLayout, save: Callable[..., None], tmp_path: Path
) -> None:
    save(10)
    save(10)
    assert restore_newest_checkpoint(store, layout, tmp_path / "back").manifest is not None


def test_a_half_written_checkpoint_is_ignored_and_named(
    store: ObjectStore, layout: RunLayout, save: Callable[..., None]
) -> None:
    save(10)
    store.write_bytes(f"{layout.checkpoint_uri(20)}/00001/adapter.safetensors", b"half")
    found = find_newest_checkpoint(store, layout)
    assert found.manifest is not None
    assert found.manifest.step == 10
    assert found.passed_over == ("step 20 has no manifest: it was never committed",)


def _flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit": (_flip_a_bit, "is damaged"),
    "a truncated file": (lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes, its manifest says"),
    "a longer file": (lambda path: path.write_bytes(path.read_bytes() + b"x"), "bytes, its manifest says"),
    "a missing file": (lambda path: path.unlink(), "is missing"),
    "an emptied file": (lambda path: path.write_bytes(b""), "has 0 bytes"),
    "another checkpoint's file of the same size": (
        lambda path: path.write_bytes(path.read_bytes()[:-2] + b"10"),
        "is damaged",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_damage_is_detected_and_the_checkpoint_before_is_used(
    store: ObjectStore,
    layout: RunLayout,
    save: Callable[..., None],
    s3_server: S3Server,
    tmp_path: Path,
    damage: str,
    name: str,
) -> None:
    save(10, 20)
    apply, reason = DAMAGE[damage]
    apply(data_path(s3_server, layout, 20, name))
    found = restore_newest_checkpoint(store, layout, tmp_path / "back")
    assert found.manifest is not None
    assert found.manifest.step == 10
    assert name in found.passed_over[0]
    assert reason in found.passed_over[0]
    assert (tmp_path / "back" / name).read_bytes() == FILES[name] + b"10"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"", "cannot be read", id="an empty manifest"),
        pytest.param(b'{"step": 20', "cannot be read", id="half a manifest"),
        pytest.param(b"another step", "is that of step 10", id="the manifest of another step"),
    ],
)
def test_a_wrong_manifest_is_passed_over(
    store: ObjectStore, layout: RunLayout, save: Callable[..., None], content: bytes, reason: str
) -> None:
    save(10, 20)
    if content == b"another step":
        content = store.read_bytes(f"{layout.checkpoint_uri(10)}/manifest.json")
    store.write_bytes(f"{layout.checkpoint_uri(20)}/manifest.json", content)
    found = find_newest_checkpoint(store, layout)
    assert found.manifest is not None
    assert found.manifest.step == 10
    assert reason in found.passed_over[0]


def test_a_file_name_that_leaves_the_folder_is_not_accepted(
    store: ObjectStore, layout: RunLayout, save: Callable[..., None]
) -> None:
    save(10, 20)
    uri = f"{layout.checkpoint_uri(20)}/manifest.json"
    store.write_bytes(uri, store.read_bytes(uri).replace(b'"state.json"', b'"../state.json"'))
    found = find_newest_checkpoint(store, layout)
    assert found.passed_over == ("step 20: its manifest cannot be read",)


def test_a_file_replaced_through_the_store_is_detected_by_the_manifest(
    store: ObjectStore, layout: RunLayout, save: Callable[..., None], tmp_path: Path
) -> None:
    save(10, 20)
    store.write_bytes(f"{layout.checkpoint_uri(20)}/00001/state.json", b"{}99")
    found = restore_newest_checkpoint(store, layout, tmp_path / "back")
    assert found.manifest is not None
    assert found.manifest.step == 10
    assert found.passed_over == ("step 20: state.json does not have the SHA-256 of its manifest",)


@pytest.mark.parametrize("seed", range(20))
def test_seeded_damage_never_gives_a_wrong_state(
    store: ObjectStore,
    layout: RunLayout,
    save: Callable[..., None],
    s3_server: S3Server,
    tmp_path: Path,
    seed: int,
) -> None:
    save(10, 20)
    chance = random.Random(seed)
    path = data_path(s3_server, layout, 20, chance.choice(sorted(FILES)))
    data = bytearray(path.read_bytes())
    kind = chance.choice(["flip", "cut", "swap"])
    if kind == "flip":
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif kind == "cut":
        del data[chance.randrange(len(data)) :]
    else:
        data[:] = chance.randbytes(len(data))
    path.write_bytes(data)
    found = restore_newest_checkpoint(store, layout, tmp_path / "back")
    assert found.manifest is not None
    assert found.manifest.step == 10


def test_when_every_checkpoint_is_damaged_there_is_none(
    store: ObjectStore, layout: RunLayout, save: Callable[..., None], s3_server: S3Server, tmp_path: Path
) -> None:
    save(10, 20)
    for step in (10, 20):
        _flip_a_bit(data_path(s3_server, layout, step, "state.json"))
    found = restore_newest_checkpoint(store, layout, tmp_path / "back")
    assert found.manifest is None
    assert [reason.split(":")[0] for reason in found.passed_over] == ["step 20", "step 10"]


def test_a_file_that_vanishes_between_finding_and_reading_is_damage(
    store: ObjectStore, layout: RunLayout, save: Callable[..., None], s3_server: S3Server, tmp_path: Path
) -> None:
    save(10)
    manifest = find_newest_checkpoint(store, layout).manifest
    assert manifest is not None
    data_path(s3_server, layout, 10, "state.json").unlink()
    with pytest.raises(CheckpointCorrupt, match="step 10"):
        download_checkpoint(store, layout, manifest, tmp_path / "back")


def test_an_unusable_checkpoint_is_replaced_when_its_step_is_reached_again(
    store: ObjectStore, layout: RunLayout, save: Callable[..., None], s3_server: S3Server, tmp_path: Path
) -> None:
    claim_incarnation(store, layout)
    save(10, 20)
    _flip_a_bit(data_path(s3_server, layout, 20, "state.json"))
    incarnation = claim_incarnation(store, layout)
    save(20, incarnation=incarnation)
    found = restore_newest_checkpoint(store, layout, tmp_path / "back")
    assert found.manifest is not None
    assert (found.manifest.step, found.manifest.incarnation) == (20, 2)


def test_killed_after_any_upload_leaves_the_checkpoint_before(
    store: ObjectStore,
    layout: RunLayout,
    save: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save(10)

    def killed(*arguments: object, **settings: object) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(ObjectStore, "write_bytes", killed)
        save(20)
    found = restore_newest_checkpoint(store, layout, tmp_path / "back")
    assert found.manifest is not None
    assert found.manifest.step == 10


# --- claims ----------------------------------------------------------------------------------------------------


def test_claims_count_up(store: ObjectStore, layout: RunLayout) -> None:
    assert [claim_incarnation(store, layout) for _ in range(3)] == [1, 2, 3]


def test_claims_at_once_are_all_different(store: ObjectStore, layout: RunLayout) -> None:
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda _: claim_incarnation(store, layout), range(8)))
    assert sorted(claims) == list(range(1, 9))


def test_an_older_incarnation_can_neither_commit_nor_prune(
    store: ObjectStore, layout: RunLayout, save: Callable[..., None]
) -> None:
    old = claim_incarnation(store, layout)
    save(10, 20, 30, incarnation=old)
    new = claim_incarnation(store, layout)
    with pytest.raises(Superseded, match="Incarnation 2 has taken over run support-bot-01234567"):
        save(40, incarnation=old)
    with pytest.raises(Superseded):
        prune_checkpoints(store, layout, 1, old)
    assert prune_checkpoints(store, layout, 2, new) == [30, 20]


def test_an_old_writer_that_wakes_up_cannot_touch_the_files_of_its_successor(
    store: ObjectStore,
    layout: RunLayout,
    save: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = claim_incarnation(store, layout)
    upload = ObjectStore.upload_files

    def paused_while_another_commits(self: ObjectStore, files: dict[str, Path]) -> None:
        monkeypatch.setattr(ObjectStore, "upload_files", upload)
        save(20, incarnation=claim_incarnation(store, layout))
        for path in files.values():
            path.write_bytes(b"stale")
        upload(self, files)

    monkeypatch.setattr(ObjectStore, "upload_files", paused_while_another_commits)
    with pytest.raises(Superseded):
        save_checkpoint(store, layout, write_state(tmp_path / "old", 20), make_facts(20, old))
    found = restore_newest_checkpoint(store, layout, tmp_path / "back")
    assert found.manifest is not None
    assert found.manifest.incarnation == 2
    assert (tmp_path / "back/state.json").read_bytes() == b"{}20"


# --- pruning ---------------------------------------------------------------------------------------------------


def test_pruning_keeps_the_newest_and_removes_every_object_of_the_rest(
    store: ObjectStore, layout: RunLayout, save: Callable[..., None]
) -> None:
    save(10, 20, 30, 40)
    assert prune_checkpoints(store, layout, 2, 1) == [40, 30]
    steps = {info.name.split("/")[0] for info in store.list_objects(layout.checkpoints_uri)}
    assert steps == {"step-00000030", "step-00000040"}


def test_pruning_never_removes_the_only_usable_one(
    store: ObjectStore, layout: RunLayout, save: Callable[..., None], s3_server: S3Server
) -> None:
    save(10, 20)
    data_path(s3_server, layout, 20, "state.json").unlink()
    assert prune_checkpoints(store, layout, 1, 1) == [10]
    assert find_newest_checkpoint(store, layout).manifest is not None


def test_pruning_without_a_usable_one_removes_nothing(store: ObjectStore, layout: RunLayout) -> None:
    store.write_bytes(f"{layout.checkpoint_uri(10)}/00001/state.json", b"half")
    assert prune_checkpoints(store, layout, 1, 1) == []
    assert len(store.list_objects(layout.checkpoints_uri)) == 1


def test_pruning_removes_what_killed_attempts_left_but_not_what_is_being_written(
    store: ObjectStore, layout: RunLayout, save: Callable[..., None]
) -> None:
    for _ in range(2):
        claim_incarnation(store, layout)
    save(20, incarnation=2)
    for step, incarnation in ((10, 1), (30, 1), (40, 2)):
        store.write_bytes(f"{layout.checkpoint_uri(step)}/{incarnation:05d}/state.json", b"half")
    prune_checkpoints(store, layout, 1, 2)
    steps = {info.name.split("/")[0] for info in store.list_objects(layout.checkpoints_uri)}
    assert steps == {"step-00000020", "step-00000040"}


def test_a_prune_killed_half_way_leaves_an_uncommitted_checkpoint(
    store: ObjectStore, layout: RunLayout, save: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    save(10, 20)
    delete = ObjectStore.delete
    calls = []

    def killed_at_the_second_call(self: ObjectStore, uris: list[str]) -> None:
        calls.append(uris)
        if len(calls) == 2:
            raise StorageUnavailable("killed")
        delete(self, uris)

    monkeypatch.setattr(ObjectStore, "delete", killed_at_the_second_call)
    with pytest.raises(StorageUnavailable):
        prune_checkpoints(store, layout, 1, 1)
    reasons = find_newest_checkpoint(store, layout, below_step=20).passed_over
    assert reasons == ("step 10 has no manifest: it was never committed",)


# --- a writer that is killed for real --------------------------------------------------------------------------

WRITER = """
import sys, time
from pathlib import Path
from finetune_api.layout import RunLayout
from finetune_api.spec import Store
from finetune_trainer.checkpoints import *
from finetune_trainer.storage import ObjectStore
output_uri, endpoint, work = sys.argv[1:]
layout = RunLayout(output_uri=output_uri, name="support-bot", uid="0123456789abcdef")
store = ObjectStore.open(Store(endpoint=endpoint))
incarnation = claim_incarnation(store, layout)
found = restore_newest_checkpoint(store, layout, Path(work) / "resume").manifest
step = found.step if found else 0
print("running", flush=True)
while True:
    step += 1
    for name in ("a.bin", "sub/b.bin"):
        path = Path(work) / "state" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(str(step).encode() * 20_000)
    save_checkpoint(store, layout, Path(work) / "state", CheckpointFacts(step=step, epoch=0, loss=None, world_size=1,
        attempt=1, incarnation=incarnation, model_digest="m", dataset_digest="d"))
    prune_checkpoints(store, layout, 2, incarnation)
"""


def test_writers_killed_at_any_moment_leave_a_whole_checkpoint_and_work_goes_on(
    store: ObjectStore, layout: RunLayout, s3_server: S3Server, tmp_path: Path
) -> None:
    key = s3_server.access_key
    environment = {**os.environ, "AWS_ACCESS_KEY_ID": key.identifier, "AWS_SECRET_ACCESS_KEY": key.secret}
    command = [sys.executable, "-c", WRITER, layout.output_uri, s3_server.endpoint, str(tmp_path)]
    chance = random.Random(0)
    reached = 0
    for _ in range(5):
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"running\n"
            time.sleep(chance.uniform(0.05, 0.6))
            writer.kill()
        found = restore_newest_checkpoint(store, layout, tmp_path / "back").manifest
        step = found.step if found else 0
        assert step >= reached
        if found:
            for name in ("a.bin", "sub/b.bin"):
                assert (tmp_path / "back" / name).read_bytes() == str(step).encode() * 20_000
        reached = step
    assert reached > 0
    claim = claim_incarnation(store, layout)
    assert claim == 6
    kept = prune_checkpoints(store, layout, 2, claim)
    committed = {f"{layout.checkpoint_uri(step)}/manifest.json" for step in kept}
    objects = store.list_objects(layout.checkpoints_uri)
    assert {info.uri for info in objects if info.name.endswith("manifest.json")} == committed
