"""What must be true when all has ended: every job as it had to end, equal models, and nothing left of anything."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from finetune_api.layout import CHECKPOINT_MANIFEST_NAME
from tests.e2e.bucket import Bucket
from tests.e2e.deadlines import wait_until
from tests.e2e.jobs import Jobs, JsonObject
from tests.soak.chaos import is_running
from tests.soak.course import Course, delete
from tests.soak.patience import patiently
from tests.soak.workload import STEPS, End, PlannedJob

CHILDREN = ("jobs", "pods", "configmaps", "services")
_SELECTOR = "finetune.dev/job"
_CHILDREN_GONE_SECONDS = 120.0
_TTL_SLACK_SECONDS = 60.0
_CHECKPOINT_FILE = re.compile(r"(?P<folder>.*/checkpoints/step-\d+/\d+)/(?P<file>.+)")


@dataclass(frozen=True)
class Verdict:
    """What is not as it has to be, a sentence each."""

    wrong_ends: tuple[str, ...]
    wrong_models: tuple[str, ...]
    orphans: tuple[str, ...]
    left_in_store: tuple[str, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """All of it."""
        return (*self.wrong_ends, *self.wrong_models, *self.orphans, *self.left_in_store)


def judge(plan: Sequence[PlannedJob], course: Course, jobs: Jobs) -> Verdict:
    """Look at everything; then delete every job, after which nothing of it may be left in the cluster."""
    statuses = {name: each.get("status", {}) for name, each in course.objects.items()}
    succeeded = {name: each for name, each in statuses.items() if each.get("phase") == End.SUCCEEDED}
    wrong_ends = find_wrong_ends(plan, statuses)
    wrong_models = find_wrong_models(plan, succeeded, jobs)
    left = [
        *find_left_of_runs(succeeded, jobs.bucket),
        *find_left_of_deleted(plan, course, jobs.bucket),
        *find_unfinished_uploads(jobs.bucket),
    ]
    orphans = [*find_running(jobs), *find_children_of(set(course.deleted), jobs)]
    for name in course.objects:
        delete(jobs, name)
    orphans += find_children_of({job.name for job in plan}, jobs)
    return Verdict(tuple(wrong_ends), tuple(wrong_models), tuple(orphans), tuple(left))


def find_wrong_ends(plan: Iterable[PlannedJob], statuses: Mapping[str, JsonObject]) -> list[str]:
    """Jobs that ended otherwise than they had to, or not at all."""
    ends = {job.name: describe(statuses.get(job.name)) for job in plan}
    wanted = {job.name: f"Failed: {job.end}" for job in plan}
    wanted |= {job.name: job.end.value for job in plan if job.end in (End.SUCCEEDED, End.DELETED)}
    return [
        f"{name} has to end as {wanted[name]} and is {end}"
        for name, end in ends.items()
        if end != wanted[name]
    ]


def describe(status: JsonObject | None) -> str:
    """Where a job stands."""
    if status is None:
        return End.DELETED.value
    phase = str(status.get("phase"))
    return f"{phase}: {status.get('reason')}" if phase == "Failed" else phase


def find_wrong_models(
    plan: Iterable[PlannedJob], succeeded: Mapping[str, JsonObject], jobs: Jobs
) -> list[str]:
    """Runs that learned otherwise than most of their recipe did, or a step twice, or not."""
    by_recipe: dict[str, dict[str, tuple[str, tuple[float, ...]]]] = defaultdict(dict)
    wrong = []
    for job in plan:
        status = succeeded.get(job.name)
        if status is None or job.end is not End.SUCCEEDED:
            continue
        lines = patiently(lambda status=status: jobs.metrics(status))  # type: ignore[misc]
        if [line["step"] for line in lines] != list(range(1, STEPS + 1)):
            wrong.append(f"{job.name} has not every step of {STEPS} once in metrics.jsonl")
        losses = tuple(line["loss"] for line in lines)
        by_recipe[job.recipe][job.name] = (status["outputs"]["manifestDigest"], losses)
    return [*wrong, *(told for recipe, runs in by_recipe.items() for told in find_odd_ones(recipe, runs))]


def find_odd_ones(recipe: str, runs: Mapping[str, tuple[str, tuple[float, ...]]]) -> list[str]:
    """Runs whose model or losses differ from those of most."""
    (usual, _) = Counter(runs.values()).most_common(1)[0]
    return [
        f"{name} ({recipe}) has another model or other losses than most of its recipe"
        for name, run in runs.items()
        if run != usual
    ]


def find_left_of_runs(succeeded: Mapping[str, JsonObject], bucket: Bucket) -> list[str]:
    """Checkpoints of succeeded runs that were never committed."""
    return [
        f"{name} left {folder}, which was never committed"
        for name, status in succeeded.items()
        for folder in list_uncommitted(patiently(lambda: bucket.keys(status["outputs"]["runURI"])))  # noqa: B023
    ]


def list_uncommitted(keys: Iterable[str]) -> list[str]:
    """Folders of checkpoints without a manifest."""
    files: dict[str, set[str]] = defaultdict(set)
    for key in keys:
        if (found := _CHECKPOINT_FILE.fullmatch(key)) is not None:
            files[found["folder"]].add(found["file"])
    return sorted(folder for folder, names in files.items() if CHECKPOINT_MANIFEST_NAME not in names)


def find_left_of_deleted(plan: Iterable[PlannedJob], course: Course, bucket: Bucket) -> list[str]:
    """Objects of runs that were deleted with `deletionPolicy: Delete`."""
    emptied = {job.name for job in plan if job.changes.get("deletionPolicy") == "Delete"}
    runs = {name: status["outputs"]["runURI"] for name, status in course.deleted.items() if name in emptied}
    return [f"{name} left {key}" for name, uri in runs.items() for key in sorted(bucket.keys(uri))]


def find_unfinished_uploads(bucket: Bucket) -> list[str]:
    """Multipart uploads that nobody finished or took back."""
    found = bucket.client.list_multipart_uploads(Bucket=bucket.name).get("Uploads", [])
    return [f"{each['Key']} is an unfinished upload" for each in found]


def find_running(jobs: Jobs) -> list[str]:
    """Pods that still run, although every job has ended."""

    def look() -> list[str]:
        return [str(pod["metadata"]["name"]) for pod in jobs.get("pods", _SELECTOR) if is_running(pod)]

    return [f"pod {name} still runs" for name in _wait_for_none(look)]


def find_children_of(names: set[str], jobs: Jobs) -> list[str]:
    """Objects of jobs that are no longer there; a Job with a time to live has that time."""

    def look() -> list[str]:
        children = [(kind, each) for kind in CHILDREN for each in jobs.get(kind, _SELECTOR)]
        return list_orphans(names, children, datetime.now(UTC))

    return [f"{child} outlived its FineTuneJob" for child in _wait_for_none(look)]


def list_orphans(names: set[str], children: Sequence[tuple[str, JsonObject]], now: datetime) -> list[str]:
    """Children of these FineTuneJobs, but for finished Jobs that still may be looked into, and their pods."""
    kept = {
        str(each["metadata"]["name"])
        for kind, each in children
        if kind == "jobs" and _may_be_looked_into(each, now)
    }
    return [
        f"{kind} {each['metadata']['name']}"
        for kind, each in children
        if each["metadata"]["labels"][_SELECTOR] in names
        and not kept
        & {each["metadata"]["name"], each["metadata"]["labels"].get("batch.kubernetes.io/job-name")}
    ]


def _may_be_looked_into(job: JsonObject, now: datetime) -> bool:
    ended, live_seconds = job["status"].get("completionTime"), job["spec"].get("ttlSecondsAfterFinished")
    if ended is None or live_seconds is None:
        return False
    return now < datetime.fromisoformat(ended) + timedelta(seconds=live_seconds + _TTL_SLACK_SECONDS)


def _wait_for_none(look: Callable[[], list[str]]) -> list[str]:
    try:
        return wait_until(look, lambda found: not found, "nothing is left", _CHILDREN_GONE_SECONDS)
    except AssertionError:
        return look()
