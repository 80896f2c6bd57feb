"""B-5 and B-10: writers SIGKILLed at seeded moments of save, upload, commit and prune, and what they leave behind."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from benchmarks import faults
from benchmarks.bars import Bar, Figure
from devcluster import S3Server
from finetune_api.layout import RunLayout
from finetune_trainer.checkpoint_pruning import prune_checkpoints
from finetune_trainer.checkpoints import restore_newest_checkpoint
from finetune_trainer.claims import claim_incarnation
from finetune_trainer.spool import UploadState
from finetune_trainer.storage import ObjectStore, object_store
from tests.builders.checkpoints import (
    committed_steps,
    make_facts,
    read_state,
    save_checkpoint,
    uncommitted_folders,
    unfinished_uploads,
)
from tests.integration.trainer.checkpoint_writers import (
    NEWEST_ONLY,
    SMALL_PARTS,
    Writers,
    state_of,
    write_state,
)
from tests.integration.trainer.pods import Pod
from tests.stand_ins.s3_proxy import S3Proxy, requests

ALL_KILLS = 200


@dataclass(frozen=True)
class Moment:
    """When a writer is killed: so many seconds after what it did so many times."""

    does: str
    times: int
    seconds: float

    @classmethod
    def draw(cls, chance: random.Random) -> Moment:
        """Draw the next one: while a writer begins, while it uploads and commits, or while it prunes."""
        return chance.choice(
            [
                cls("started", 0, chance.uniform(0, 0.5)),
                cls("uploading", chance.choice([1, 2, 3]), chance.uniform(0, 0.12)),
                cls("uploading", chance.choice([1, 2, 3]), chance.uniform(0, 0.12)),
                cls("committed", chance.choice([1, 2]), chance.uniform(0, 0.03)),
            ]
        )


@dataclass
class Course:
    """What became of a run whose writers were killed again and again."""

    reached: int = 0
    valid: int = 0
    left_unpruned: int = 0
    left_uncommitted: int = 0
    left_unfinished_uploads: int = 0
    problems: list[str] = field(default_factory=list)


@pytest.fixture
def writers(
    s3_server: S3Server, layout: RunLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Writers:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key.identifier)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.access_key.secret)
    return Writers(layout, s3_server.endpoint, tmp_path)


def look(store: ObjectStore, layout: RunLayout, announced: int, directory: Path, course: Course) -> None:
    """Read as the next attempt will, and count."""
    found = restore_newest_checkpoint(store, layout, directory)
    step = found.manifest.step if found.manifest else 0
    if step < max(announced, course.reached):
        course.problems.append(f"step {max(announced, course.reached)} is lost, {step} is left: {found}")
    elif step > 0 and read_state(directory) != state_of(step):
        course.problems.append(f"step {step} is not what was saved")
    else:
        course.valid += 1
    course.reached = step
    course.left_unpruned += len(committed_steps(store, layout)) > 1
    course.left_uncommitted += bool(uncommitted_folders(store, layout))
    course.left_unfinished_uploads += bool(unfinished_uploads(store, layout))


def kill_again_and_again(
    writers: Writers, store: ObjectStore, layout: RunLayout, directory: Path, kills: int
) -> Course:
    """Let each writer live until its moment, and read what is there after its death."""
    chance, course = random.Random(kills), Course()
    with writers:
        for _ in range(kills):
            moment = Moment.draw(chance)
            writers.start()
            writers.wait_until_it(moment.does, moment.times)
            time.sleep(moment.seconds)
            writers.kill()
            look(store, layout, writers.announced, directory, course)
    return course


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(20, id="every day"),
        pytest.param(ALL_KILLS, id="the whole bar", marks=pytest.mark.long_fault),
    ],
)
def test_writers_killed_at_any_moment_leave_a_whole_checkpoint_and_the_next_one_goes_on(
    writers: Writers,
    store: ObjectStore,
    layout: RunLayout,
    tmp_path: Path,
    kills: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    began = time.monotonic()
    course = kill_again_and_again(writers, store, layout, tmp_path / "back", kills)

    # One good commit, and nothing is left of all those that came to nothing.
    monkeypatch.setattr(object_store, "_TRANSFER", SMALL_PARTS)
    incarnation, step = claim_incarnation(store, layout), course.reached + 1
    assert incarnation <= kills + 1
    save_checkpoint(store, layout, write_state(tmp_path / "last", step), make_facts(step, incarnation))
    assert prune_checkpoints(store, layout, NEWEST_ONLY, incarnation) == [step]
    left = [*sorted(uncommitted_folders(store, layout)), *unfinished_uploads(store, layout)]

    if kills == ALL_KILLS:
        faults.record(
            faults.count_bar(
                "B-5",
                "SIGKILL at seeded points of save, upload, commit and prune: resumes that are valid",
                good=course.valid,
                of=kills,
                unit="kills",
                problems=course.problems,
            ),
            Bar(
                "B-10",
                "after all those kills and one good commit: what is left uncommitted",
                (Figure("left", len(left), "folders and unfinished uploads", 0),),
                {"left": left} if left else {},
            ),
            seconds=round(time.monotonic() - began, 1),
            steps=course.reached,
            killsBeforePruning=course.left_unpruned,
            killsWithUncommittedFiles=course.left_uncommitted,
            killsWithUnfinishedUploads=course.left_unfinished_uploads,
        )
    assert course.problems == []
    assert course.valid == kills
    assert course.reached > kills / 2
    # Otherwise no kill had come in the midst of an upload.
    assert course.left_uncommitted > 0
    assert course.left_unfinished_uploads > 0
    assert left == []
    assert committed_steps(store, layout) == [step]


def test_what_kills_and_withdrawals_leave_is_gone_after_the_next_good_commit(
    store: ObjectStore,
    layout: RunLayout,
    proxy: S3Proxy,
    proxied: ObjectStore,
    s3_server: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key.identifier)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.access_key.secret)
    monkeypatch.setattr(object_store, "_TRANSFER", SMALL_PARTS)
    pause = proxy.pause(to=requests("PUT", "/step-00000001/00001/", query="partNumber="))
    with Writers(layout, proxy.url, tmp_path / "writers") as killed:
        killed.start()
        pause.reached()
        killed.kill()
        pause.release()
    assert len(unfinished_uploads(store, layout)) == 1

    incarnation = claim_incarnation(store, layout)
    pod = Pod(proxied, layout, tmp_path / "pod")
    write_state(pod.state, 0)
    pause = proxy.pause(to=requests("PUT", "/step-00000010/00002/", query="partNumber="))
    with pod:
        pod.hand_over(10, incarnation=incarnation)
        pause.reached()
        assert len(unfinished_uploads(store, layout)) == 2
        order = pod.replace(20, incarnation=incarnation)
        pod.wait_for(UploadState.IDLE, order)
        pause.release()
        pod.save(30, incarnation=incarnation, keep_last=1)
    assert uncommitted_folders(store, layout) == set()
    assert unfinished_uploads(store, layout) == []
    assert committed_steps(store, layout) == [30]
