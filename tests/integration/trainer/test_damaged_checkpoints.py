"""B-8: seeded damage to the newest checkpoint behind the server's back: the one before is used, and the reason said."""

from __future__ import annotations

import random
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks import faults
from devcluster import S3Server
from finetune_api.layout import RunLayout
from finetune_api.spec import Checksums, Store
from finetune_trainer.checkpoints import Place, restore_newest_checkpoint
from finetune_trainer.storage import ObjectStore
from tests.builders.checkpoints import make_facts, read_state, save_checkpoint

ALL_MUTATIONS = 50
# Two of one size, so that no length gives them away.
SIZES = {"parameters.bin": 30_000, "optimizer/rank-0.bin": 30_000, "state.json": 200}
MANIFEST = "manifest.json"


def state_of(step: int) -> dict[str, bytes]:
    """Files that no other step has."""
    return {name: random.Random(f"{step} {name}").randbytes(size) for name, size in SIZES.items()}


@dataclass(frozen=True)
class Scene:
    """The folders of two checkpoints behind the server, and a reader of its own kind."""

    older: Path
    newer: Path
    chance: random.Random
    # Whether the reader's client compares the checksums that the server keeps; else the manifest's alone tell.
    has_checksums: bool

    def draw(self, *more: str) -> Path:
        """One of the newer checkpoint's files."""
        return self.newer / self.chance.choice([*SIZES, *more])


def flip_a_bit(scene: Scene) -> None:
    # Nothing but the server's checksum covers all of a manifest.
    path = scene.draw(MANIFEST) if scene.has_checksums else scene.draw()
    data = bytearray(path.read_bytes())
    data[scene.chance.randrange(len(data))] ^= 1 << scene.chance.randrange(8)
    path.write_bytes(data)


def truncate(scene: Scene) -> None:
    cut(scene.draw(), scene.chance)


def remove(scene: Scene) -> None:
    scene.draw(MANIFEST).unlink()


def swap(scene: Scene) -> None:
    # Renamed, so that the server's checksums go with the contents.
    one, other, aside = (scene.newer / name for name in ("parameters.bin", "optimizer/rank-0.bin", "aside"))
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def replace_by_the_older_one(scene: Scene) -> None:
    take_over(scene.older, scene.newer, scene.chance.choice(list(SIZES)))


def copy_the_older_manifest(scene: Scene) -> None:
    take_over(scene.older, scene.newer, MANIFEST)


def cut_the_manifest(scene: Scene) -> None:
    cut(scene.newer / MANIFEST, scene.chance)


def cut(path: Path, chance: random.Random) -> None:
    """Keep the first bytes alone, or none; of a manifest more is gone than its last line's end."""
    path.write_bytes(path.read_bytes()[: chance.randrange(path.stat().st_size - 1)])


def take_over(older: Path, newer: Path, name: str) -> None:
    """Put a file there with all that the server knows of it."""
    (newer / name).unlink()
    shutil.copy2(older / name, newer / name)


NO_DIGEST, UNREADABLE = "does not have the CRC64-NVME of its manifest", "its manifest cannot be read"
MUTATIONS: dict[Callable[[Scene], None], str] = {
    flip_a_bit: f"is damaged|{NO_DIGEST}|{UNREADABLE}",
    truncate: "bytes, its manifest says",
    remove: "is missing|it was never committed",
    swap: f"(parameters|rank-0).bin {NO_DIGEST}",
    replace_by_the_older_one: NO_DIGEST,
    copy_the_older_manifest: "its manifest is that of step 10",
    cut_the_manifest: UNREADABLE,
}


@dataclass
class Bench:
    """Makes a run of two checkpoints for each seed, damages the newer one, and reads."""

    store: ObjectStore
    without_checksums: ObjectStore
    data: Path
    output_uri: str
    folder: Path

    def problem(self, seed: int) -> str | None:
        """What is wrong with what a reader finds; None where all is as it should be."""
        layout = RunLayout(self.output_uri, "support-bot", f"{seed:08d}")
        for step in (10, 20):
            save_checkpoint(self.store, layout, self.write_state(step), make_facts(step))
        mutate = list(MUTATIONS)[seed % len(MUTATIONS)]
        older, newer = (self.data / Place(layout, step, 1).uri.removeprefix("s3://") for step in (10, 20))
        # Every kind of damage meets both kinds of readers.
        has_checksums = seed // len(MUTATIONS) % 2 == 0
        mutate(Scene(older, newer, random.Random(seed), has_checksums))

        back = self.folder / "back"
        reader = self.store if has_checksums else self.without_checksums
        found = restore_newest_checkpoint(reader, layout, back)
        reason = f"^step 20.*({MUTATIONS[mutate]})"
        if found.manifest is None or found.manifest.step != 10 or read_state(back) != state_of(10):
            return f"seed {seed}, {mutate.__name__}: not the one before: {found}"
        if len(found.passed_over) != 1 or not re.search(reason, found.passed_over[0]):
            return f"seed {seed}, {mutate.__name__}: no right reason: {found.passed_over}"
        return None

    def write_state(self, step: int) -> Path:
        """A step's state in a folder."""
        for name, content in state_of(step).items():
            path = self.folder / "state" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return self.folder / "state"


@pytest.fixture
def bench(
    store: ObjectStore, store_settings: Store, s3_server: S3Server, bucket: str, tmp_path: Path
) -> Bench:
    without = store_settings.model_copy(update={"checksums": Checksums.WHEN_REQUIRED})
    return Bench(
        store, ObjectStore.open(without, max_attempts=2), s3_server.data, f"s3://{bucket}/out", tmp_path
    )


@pytest.mark.parametrize(
    "mutations",
    [
        pytest.param(14, id="every day"),
        pytest.param(ALL_MUTATIONS, id="the whole bar", marks=pytest.mark.long_fault),
    ],
)
def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_says_why(bench: Bench, mutations: int) -> None:
    began = time.monotonic()
    problems = [each for seed in range(mutations) if (each := bench.problem(seed)) is not None]
    if mutations == ALL_MUTATIONS:
        bar = faults.count_bar(
            "B-8",
            "seeded damage to the newest checkpoint: detected, named, and the one before used",
            good=mutations - len(problems),
            of=mutations,
            unit="mutations",
            problems=problems,
        )
        faults.record(bar, seconds=round(time.monotonic() - began, 1))
    assert problems == []
