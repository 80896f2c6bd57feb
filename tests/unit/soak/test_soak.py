"""The soak's own decisions: what is applied when, what has to be true in the end, and what is found when it is not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.soak.course import Course, list_ended, list_to_apply, list_to_delete
from tests.soak.verdict import find_odd_ones, find_wrong_ends, list_orphans, list_uncommitted
from tests.soak.workload import End, PlannedJob, count_ends, plan_jobs

RUN = "models/soak/a/runs/a-1/checkpoints"


def make_status(phase: str, reason: str = "", step: int = 0) -> dict[str, Any]:
    finished = phase in ("Succeeded", "Failed")
    conditions = [{"type": "Finished", "status": str(finished)}]
    return {"phase": phase, "reason": reason, "conditions": conditions, "progress": {"step": step}}


def make_job(name: str, end: End = End.SUCCEEDED, due_seconds: float = 0.0) -> PlannedJob:
    return PlannedJob(name, end, due_seconds)


def test_one_seed_gives_one_workload_and_another_seed_another() -> None:
    first, again, other = (plan_jobs(seed, 50, 1800, "s3://e2e/none") for seed in (1, 1, 2))

    assert first == again
    assert first != other


@pytest.mark.parametrize("count", [3, 8, 50])
def test_a_third_of_the_jobs_is_to_fail_and_at_least_one_is_deleted(count: int) -> None:
    plan = plan_jobs(1, count, 1800, "s3://e2e/none")

    ends = count_ends(plan)

    assert sum(ends.values()) == count
    assert len({job.name for job in plan}) == count
    assert ends["deleted"] >= 1
    assert ends["deleted"] + ends["DataError"] + ends["UserError"] == max(2, round(count / 3))
    assert all(0 <= job.due_seconds < 1800 for job in plan)


def test_jobs_are_applied_when_they_are_due_and_no_more_than_four_side_by_side() -> None:
    plan = [make_job(f"job-{number}", due_seconds=number) for number in range(6)]
    course = Course(applied={"job-0", "job-1"}, ended={"job-0"})

    assert [job.name for job in list_to_apply(plan, course, now=2.5)] == ["job-2"]
    assert [job.name for job in list_to_apply(plan, course, now=9)] == ["job-2", "job-3", "job-4"]


def test_a_job_that_is_to_be_deleted_is_deleted_once_while_it_trains() -> None:
    plan = [make_job("goes", End.DELETED), make_job("stays")]
    trains = {name: {"status": make_status("Training", step=3)} for name in ("goes", "stays")}

    assert [job.name for job in list_to_delete(plan, Course(objects=trains))] == ["goes"]
    assert list_to_delete(plan, Course(objects=trains, deleted={"goes": {}})) == []
    assert list_to_delete(plan, Course(objects={"goes": {"status": make_status("Preparing")}})) == []


def test_a_deleted_job_has_ended_when_it_is_gone_and_another_one_when_it_says_so() -> None:
    plan = [make_job("goes", End.DELETED), make_job("stays"), make_job("vanished")]
    course = Course(applied={"goes", "stays", "vanished"}, deleted={"goes": {}})

    course.objects = {
        "goes": {"status": make_status("Training")},
        "stays": {"status": make_status("Training")},
    }
    assert list_ended(plan, course) == []
    course.objects = {"stays": {"status": make_status("Failed", "UserError")}}
    assert [job.name for job in list_ended(plan, course)] == ["goes", "stays"]


def test_every_end_that_is_not_as_planned_is_named() -> None:
    plan = [
        make_job("good"),
        make_job("bad", End.DATA_ERROR),
        make_job("hangs"),
        make_job("wrong-reason", End.USER_ERROR),
        make_job("gone", End.DELETED),
        make_job("not-gone", End.DELETED),
    ]
    statuses = {
        "good": make_status("Succeeded"),
        "bad": make_status("Failed", "DataError"),
        "hangs": make_status("Restarting"),
        "wrong-reason": make_status("Failed", "RestartsExhausted"),
        "not-gone": make_status("Training"),
    }

    assert find_wrong_ends(plan, statuses) == [
        "hangs has to end as Succeeded and is Restarting",
        "wrong-reason has to end as Failed: UserError and is Failed: RestartsExhausted",
        "not-gone has to end as deleted and is Training",
    ]


def test_a_run_that_learned_something_else_than_most_is_named() -> None:
    usual, odd = ("digest", (2.0, 1.0)), ("digest", (2.0, 1.5))

    assert find_odd_ones("one process", {"a": usual, "b": odd, "c": usual}) == [
        "b (one process) has another model or other losses than most of its recipe"
    ]
    assert find_odd_ones("one process", {"a": usual}) == []


def test_a_folder_of_a_checkpoint_without_a_manifest_is_found() -> None:
    keys = [
        f"{RUN}/step-00000010/00001/parameters-00000.safetensors",
        f"{RUN}/step-00000010/00001/manifest.json",
        f"{RUN}/step-00000020/00001/parts/00001",
        f"{RUN}/step-00000020/00002/manifest.json",
        "models/soak/a/runs/a-1/metrics.jsonl",
    ]

    assert list_uncommitted(keys) == [f"{RUN}/step-00000020/00001"]


def make_child(name: str, job: str, **more: Any) -> dict[str, Any]:
    labels = {"finetune.dev/job": job, "batch.kubernetes.io/job-name": name.rpartition("-pod")[0]}
    return {"metadata": {"name": name, "labels": labels}, **more}


@pytest.mark.parametrize(
    ("ended_minutes_ago", "orphans"),
    [
        (None, ["jobs goes-cleanup-1", "pods goes-cleanup-1-pod"]),
        (5, []),
        (15, ["jobs goes-cleanup-1", "pods goes-cleanup-1-pod"]),
    ],
)
def test_a_finished_cleanup_may_be_looked_into_for_its_ttl_and_everything_else_is_an_orphan(
    ended_minutes_ago: int | None, orphans: list[str]
) -> None:
    now = datetime(2026, 11, 1, tzinfo=UTC)
    ended = ended_minutes_ago and (now - timedelta(minutes=ended_minutes_ago)).isoformat()
    status = {"completionTime": ended} if ended else {}
    children = [
        ("jobs", make_child("goes-cleanup-1", "goes", status=status, spec={"ttlSecondsAfterFinished": 600})),
        ("jobs", make_child("goes-train-1", "goes", status={"completionTime": now.isoformat()}, spec={})),
        ("pods", make_child("goes-cleanup-1-pod", "goes")),
        ("services", make_child("stays-train-1", "stays")),
    ]

    assert list_orphans({"goes"}, children, now) == sorted([*orphans, "jobs goes-train-1"])
