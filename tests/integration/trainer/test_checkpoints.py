"""The commit protocol on a real S3 server: what a reader finds after crashes, damage and competing writers."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from devcluster import S3Server
from finetune_api.layout import RunLayout
from finetune_trainer.checkpoint_pruning import prune_checkpoints, remove_unfinished
from finetune_trainer.checkpoints import (
    CheckpointManifest,
    Place,
    Withdrawn,
    commit_checkpoint,
    download_checkpoint,
    find_newest_checkpoint,
    read_parts,
    restore_newest_checkpoint,
    upload_files,
    write_part,
)
from finetune_trainer.claims import claim_incarnation
from finetune_trainer.errors import CheckpointCorrupt, ObjectDamaged, StorageUnavailable
from finetune_trainer.retention import Retention
from finetune_trainer.storage import ObjectStore
from tests.builders.checkpoints import (
    FILES,
    begin_upload,
    committed_steps,
    files_in,
    make_facts,
    read_state,
    save_checkpoint,
    state_of,
    uncommitted_folders,
    unfinished_uploads,
    write_state,
)


@pytest.fixture
def save(store: ObjectStore, layout: RunLayout, tmp_path: Path) -> Callable[..., None]:
    """Save checkpoints of these steps, as incarnation 1 unless told otherwise."""

    def save_steps(*steps: int, incarnation: int = 1) -> None:
        for step in steps:
            save_checkpoint(
                store, layout, write_state(tmp_path / "state", step), make_facts(step, incarnation)
            )

    return save_steps


def data_path(s3_server: S3Server, layout: RunLayout, step: int, name: str) -> Path:
    """The file behind an object, to damage it."""
    return s3_server.data / f"{Place(layout, step, 1).uri}/{name}".removeprefix("s3://")


# --- saving and finding ----------------------------------------------------------------------------------------


def test_a_saved_checkpoint_is_found_and_comes_back_whole(
    store: ObjectStore, layout: RunLayout, save: Callable[..., None], tmp_path: Path
) -> None:
    save(10, 20)
    found = restore_newest_checkpoint(store, layout, tmp_path / "back")
    assert found.manifest is not None
    assert (found.manifest.step, found.passed_over) == (20, ())
    assert read_state(tmp_path / "back") == state_of(20)
    assert found.manifest.size_bytes == sum(map(len, state_of(20).values()))


def test_a_run_without_checkpoints_has_none(store: ObjectStore, layout: RunLayout, tmp_path: Path) -> None:
    found = restore_newest_checkpoint(store, layout, tmp_path / "back")
    assert (found.manifest, found.passed_over) == (None, ())


def test_saving_the_same_step_again_changes_nothing(
    store: ObjectStore, layout: RunLayout, save: Callable[..., None], tmp_path: Path
) -> None:
    save(10)
    save(10)
    assert restore_newest_checkpoint(store, layout, tmp_path / "back").manifest is not None
    assert read_state(tmp_path / "back") == state_of(10)


def the_state_alone(manifest: CheckpointManifest) -> Callable[[str], bool]:
    assert manifest.files
    return lambda name: name == "state.json"


def test_only_the_files_that_are_wanted_come_back_and_are_looked_at(
    store: ObjectStore, layout: RunLayout, save: Callable[..., None], s3_server: S3Server, tmp_path: Path
) -> None:
    save(10, 20)
    _flip_a_bit(data_path(s3_server, layout, 20, "adapter.safetensors"))
    found = restore_newest_checkpoint(store, layout, tmp_path / "back", wanted=the_state_alone)
    assert found.manifest is not None
    assert (found.manifest.step, found.passed_over) == (20, ())
    assert read_state(tmp_path / "back") == {"state.json": b"{}20"}


def test_one_that_has_proved_unusable_elsewhere_is_not_tried_again(
    store: ObjectStore, layout: RunLayout, save: Callable[..., None], tmp_path: Path
) -> None:
    save(10, 20)
    found = restore_newest_checkpoint(
        store, layout, tmp_path / "back", unusable={Place(layout, 20, 1): "step 20: the second pod says so"}
    )
    assert found.manifest is not None
    assert (found.manifest.step, found.passed_over) == (10, ("step 20: the second pod says so",))
    assert read_state(tmp_path / "back") == state_of(10)


def test_what_stood_in_the_folder_before_is_gone(
    store: ObjectStore, layout: RunLayout, save: Callable[..., None], tmp_path: Path
) -> None:
    save(10)
    write_state(tmp_path / "back" / "of-another-attempt", 5)
    restore_newest_checkpoint(store, layout, tmp_path / "back")
    assert read_state(tmp_path / "back") == state_of(10)


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param([True], id="before the upload"),
        pytest.param([False, True], id="during the upload"),
    ],
)
def test_what_is_withdrawn_is_not_described(
    store: ObjectStore, layout: RunLayout, tmp_path: Path, answers: list[bool]
) -> None:
    files = files_in(write_state(tmp_path / "state", 10))
    told = iter(answers)
    with pytest.raises(Withdrawn):
        upload_files(store, Place(layout, 10, 1), files, lambda: next(told, True))


def test_what_is_withdrawn_when_all_is_uploaded_is_not_described(
    store: ObjectStore, layout: RunLayout, tmp_path: Path
) -> None:
    place, files = Place(layout, 10, 1), files_in(write_state(tmp_path / "state", 10))

    def all_is_there() -> bool:
        return len(store.list_objects(place.uri)) == len(files)

    with pytest.raises(Withdrawn):
        upload_files(store, place, files, all_is_there)
    assert all_is_there()


def test_a_checkpoint_whose_files_are_not_all_there_is_not_committed(
    store: ObjectStore, layout: RunLayout, tmp_path: Path
) -> None:
    place, files = Place(layout, 10, 1), files_in(write_state(tmp_path / "state", 10))
    entries = upload_files(store, place, files, lambda: False)
    for damage, problem in (
        (lambda: store.write_bytes(f"{place.uri}/state.json", b"{}"), "state.json has 2 bytes"),
        (lambda: store.delete([f"{place.uri}/state.json"]), "state.json is missing"),
    ):
        damage()
        with pytest.raises(ObjectDamaged, match=f"{problem}.*It is uploaded again"):
            commit_checkpoint(store, layout, make_facts(10), entries)
    assert committed_steps(store, layout) == []


def test_parts_of_other_pods_are_read_when_all_have_been_written(
    store: ObjectStore, layout: RunLayout, tmp_path: Path
) -> None:
    place, files = Place(layout, 10, 1), files_in(write_state(tmp_path / "state", 10))
    entries = upload_files(store, place, files, lambda: False)
    assert read_parts(store, place, nodes=1) == ()
    assert read_parts(store, place, nodes=3) is None
    write_part(store, place, 2, entries[1:])
    assert read_parts(store, place, nodes=3) is None
    write_part(store, place, 1, entries[:1])
    assert read_parts(store, place, nodes=3) == entries


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
    "a flipped bit": (_flip_a_bit, "does not have the CRC64-NVME of its manifest"),
    "a truncated file": (lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes, its manifest says"),
    "a longer file": (lambda path: path.write_bytes(path.read_bytes() + b"x"), "bytes, its manifest says"),
    "a missing file": (lambda path: path.unlink(), "is missing"),
    "an emptied file": (lambda path: path.write_bytes(b""), "has 0 bytes"),
    "another checkpoint's file of the same size": (
        lambda path: path.write_bytes(path.read_bytes()[:-2] + b"10"),
        "does not have the CRC64-NVME of its manifest",
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
        content = store.read_bytes(Place(layout, 10, 1).manifest_uri)
    store.write_bytes(Place(layout, 20, 1).manifest_uri, content)
    found = find_newest_checkpoint(store, layout)
    assert found.manifest is not None
    assert found.manifest.step == 10
    assert reason in found.passed_over[0]


def test_the_manifest_of_another_incarnation_is_passed_over(
    store: ObjectStore, layout: RunLayout, save: Callable[..., None]
) -> None:
    save(10, 20)
    manifest = store.read_bytes(Place(layout, 20, 1).manifest_uri)
    store.write_bytes(Place(layout, 20, 2).manifest_uri, manifest)
    found = find_newest_checkpoint(store, layout)
    assert found.manifest is not None
    assert (found.manifest.step, found.manifest.incarnation) == (20, 1)
    assert found.passed_over == (
        f"step 20: its manifest is that of step 20 of run {layout.run_id}, by incarnation 1",
    )


def test_a_file_name_that_leaves_the_folder_is_not_accepted(
    store: ObjectStore, layout: RunLayout, save: Callable[..., None]
) -> None:
    save(10, 20)
    uri = Place(layout, 20, 1).manifest_uri
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
    assert found.passed_over == ("step 20: state.json does not have the CRC64-NVME of its manifest",)


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


# --- pruning ---------------------------------------------------------------------------------------------------


def test_pruning_keeps_the_newest_and_removes_every_object_of_the_rest(
    store: ObjectStore, layout: RunLayout, save: Callable[..., None]
) -> None:
    save(10, 20, 30, 40)
    assert prune_checkpoints(store, layout, Retention(2, 0), 1) == [40, 30]
    steps = {info.name.split("/")[0] for info in store.list_objects(layout.checkpoints_uri)}
    assert steps == {"step-00000030", "step-00000040"}


def test_pruning_never_removes_the_only_usable_one(
    store: ObjectStore, layout: RunLayout, save: Callable[..., None], s3_server: S3Server
) -> None:
    save(10, 20)
    data_path(s3_server, layout, 20, "state.json").unlink()
    assert prune_checkpoints(store, layout, Retention(1, 0), 1) == [10]
    assert find_newest_checkpoint(store, layout).manifest is not None


def test_pruning_without_a_usable_one_removes_nothing(store: ObjectStore, layout: RunLayout) -> None:
    store.write_bytes(f"{layout.checkpoint_uri(10)}/00001/state.json", b"half")
    assert prune_checkpoints(store, layout, Retention(1, 0), 1) == []
    assert len(store.list_objects(layout.checkpoints_uri)) == 1


def test_pruning_removes_what_killed_attempts_left_but_not_what_is_being_written(
    store: ObjectStore, layout: RunLayout, save: Callable[..., None]
) -> None:
    for _ in range(2):
        claim_incarnation(store, layout)
    save(20, incarnation=2)
    for step, incarnation in ((10, 1), (30, 1), (40, 2)):
        store.write_bytes(f"{layout.checkpoint_uri(step)}/{incarnation:05d}/state.json", b"half")
    prune_checkpoints(store, layout, Retention(1, 0), 2)
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
        prune_checkpoints(store, layout, Retention(1, 0), 1)
    reasons = find_newest_checkpoint(store, layout, passed_over={Place(layout, 20, 1): "step 20"}).passed_over
    assert reasons == ("step 20", "step 10 has no manifest: it was never committed")


def test_pruning_keeps_the_best_beside_the_newest(
    store: ObjectStore, layout: RunLayout, tmp_path: Path
) -> None:
    for step, loss in ((10, 0.9), (20, 0.2), (30, None), (40, 0.3), (50, 0.4)):
        save_checkpoint(store, layout, write_state(tmp_path, step), make_facts(step, eval_loss=loss))
    assert prune_checkpoints(store, layout, Retention(1, 2), 1) == [50, 40, 20]
    assert committed_steps(store, layout) == [20, 40, 50]


def test_a_damaged_checkpoint_is_never_the_best(
    store: ObjectStore, layout: RunLayout, s3_server: S3Server, tmp_path: Path
) -> None:
    for step, loss in ((10, 0.5), (20, 0.1), (30, 0.9)):
        save_checkpoint(store, layout, write_state(tmp_path, step), make_facts(step, eval_loss=loss))
    data_path(s3_server, layout, 20, "state.json").unlink()
    assert prune_checkpoints(store, layout, Retention(1, 1), 1) == [30, 10]
    assert committed_steps(store, layout) == [10, 30]


def test_pruning_removes_unfinished_uploads_but_not_those_of_what_is_being_written(
    store: ObjectStore, layout: RunLayout, save: Callable[..., None]
) -> None:
    for _ in range(2):
        claim_incarnation(store, layout)
    save(20, incarnation=2)
    for step, incarnation in ((10, 1), (20, 1), (30, 1), (10, 2), (20, 2), (40, 2)):
        begin_upload(store, f"{Place(layout, step, incarnation).uri}/state.json")
    begin_upload(store, f"{layout.run_uri}/merged/model.safetensors")
    prune_checkpoints(store, layout, Retention(1, 0), 2)
    assert sorted(unfinished_uploads(store, layout)) == [
        "checkpoints/step-00000040/00002/state.json",
        "merged/model.safetensors",
    ]


def test_when_training_is_done_nothing_uncommitted_is_left(
    store: ObjectStore, layout: RunLayout, save: Callable[..., None]
) -> None:
    save(10, 20)
    store.write_bytes(f"{Place(layout, 15, 1).uri}/state.json", b"given up")
    store.write_bytes(f"{Place(layout, 30, 1).uri}/state.json", b"arrived after the last commit")
    begin_upload(store, f"{Place(layout, 30, 1).uri}/adapter.safetensors")
    begin_upload(store, f"{layout.run_uri}/merged/model.safetensors")
    assert remove_unfinished(store, layout) == 3
    assert uncommitted_folders(store, layout) == set()
    assert committed_steps(store, layout) == [10, 20]
    assert unfinished_uploads(store, layout) == ["merged/model.safetensors"]
