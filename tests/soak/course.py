"""The course of a soak: jobs are applied as they fall due, a few at a time, some deleted midway, until all have ended."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.e2e.jobs import Jobs, JsonObject, is_finished
from tests.soak.chaos import Chaos, Say
from tests.soak.patience import patiently
from tests.soak.workload import End, PlannedJob

AT_ONCE = 4
_POLL_SECONDS = 0.5
# After the last disturbance, for what is still under way, with its growing pauses between attempts.
PATIENCE_SECONDS = 1200.0


@dataclass
class Course:
    """What became of the jobs so far."""

    applied: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    # Those that were deleted, with the last that their status said.
    deleted: dict[str, JsonObject] = field(default_factory=dict)
    # The FineTuneJobs that there are, by name, as last seen.
    objects: dict[str, JsonObject] = field(default_factory=dict)
    # When each was seen to have ended, in seconds since it was applied.
    seconds: dict[str, float] = field(default_factory=dict)


def play(plan: Sequence[PlannedJob], jobs: Jobs, chaos: Chaos, say: Say, duration_seconds: float) -> Course:
    """Apply all jobs and disturb them for as long as is asked; return when all have ended, or patience has."""
    course, applied_at = Course(), dict[str, float]()
    began = time.monotonic()
    is_calm = False
    while True:
        now = time.monotonic() - began
        if now < duration_seconds:
            patiently(lambda now=now: chaos.tick(now))  # type: ignore[misc]
        elif not is_calm:
            is_calm = True
            chaos.heal()
            say("no more disturbances")
        observe(course, jobs)
        for job in list_ended(plan, course):
            course.ended.add(job.name)
            course.seconds[job.name] = now - applied_at[job.name]
            say(f"{job.name} {describe_end(course, job.name)} ({course.seconds[job.name]:.0f} s)")
        if course.ended >= {job.name for job in plan} and is_calm:
            return course
        if now > duration_seconds + PATIENCE_SECONDS:
            say(f"given up: {sorted({job.name for job in plan} - course.ended)} have not ended")
            return course
        for job in list_to_apply(plan, course, now):
            patiently(lambda job=job: jobs.apply(job.name, **job.changes))  # type: ignore[misc]
            course.applied.add(job.name)
            applied_at[job.name] = now
            say(f"{job.name} applied, has to end as {job.end.value} {job.recipe}".rstrip())
        for job in list_to_delete(plan, course):
            course.deleted[job.name] = course.objects[job.name]["status"]
            delete(jobs, job.name)
            say(f"{job.name} deleted at step {course.deleted[job.name]['progress']['step']}")
        time.sleep(_POLL_SECONDS)


def observe(course: Course, jobs: Jobs) -> None:
    """Read all FineTuneJobs."""
    found = patiently(lambda: jobs.get("finetunejobs"))
    course.objects = {str(each["metadata"]["name"]): each for each in found}


def delete(jobs: Jobs, name: str) -> None:
    """`kubectl delete` without waiting for the end of it."""
    patiently(lambda: jobs.kubectl("delete", "ftj", name, "--wait=false", "--ignore-not-found"))


def list_ended(plan: Sequence[PlannedJob], course: Course) -> list[PlannedJob]:
    """Jobs of whose end nobody has been told yet."""

    def has_ended(job: PlannedJob) -> bool:
        found = course.objects.get(job.name)
        if job.name in course.deleted:
            return found is None
        return found is not None and is_finished(found.get("status", {}))

    pending = course.applied - course.ended
    return [job for job in plan if job.name in pending and has_ended(job)]


def list_to_apply(plan: Sequence[PlannedJob], course: Course, now: float) -> list[PlannedJob]:
    """Jobs that are due, as far as there is room beside those that run."""
    room = AT_ONCE - len(course.applied - course.ended)
    due = [job for job in plan if job.name not in course.applied and job.due_seconds <= now]
    return due[: max(0, room)]


def list_to_delete(plan: Sequence[PlannedJob], course: Course) -> list[PlannedJob]:
    """Jobs that are to be deleted in the middle of training, and are there."""

    def trains(job: PlannedJob) -> bool:
        status: Mapping[str, JsonObject] = course.objects.get(job.name, {}).get("status", {})
        return job.name not in course.deleted and status.get("progress", {}).get("step", 0) > 0

    return [job for job in plan if job.end is End.DELETED and trains(job)]


def describe_end(course: Course, name: str) -> str:
    """One line about a job that has ended."""
    if name in course.deleted:
        return "is gone"
    status = course.objects[name]["status"]
    figures = ", ".join(
        f"{word} {status[key]}"
        for key, word in (
            ("restarts", "restarts"),
            ("preemptions", "preemptions"),
            ("stepsLost", "steps lost"),
        )
        if status.get(key)
    )
    told = "" if status["phase"] == "Succeeded" else f", {status['reason']}"
    return f"{status['phase']}{told}{f': {figures}' if figures else ''}"
