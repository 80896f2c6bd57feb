"""Which jobs a soak has, when each is applied, and how each has to end. Pure: one seed gives one workload."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from tests.e2e.jobs import NO_MERGE, JsonObject

# The last job comes early enough to end together with the disturbances.
ARRIVALS_END = 0.9
DELETED_SHARE, FAILING_SHARE = 1 / 25, 1 / 3
STEPS = 250
# Enough to be deleted in the middle, whatever happens meanwhile.
ENDLESS = 100_000
_TRAINS: JsonObject = {
    "training__maxSteps": STEPS,
    "training__globalBatchSize": 32,
    "checkpoints__everySteps": 10,
    # Disturbances are the point here: no job may run out of restarts.
    "failurePolicy__maxRestarts": 100,
    **NO_MERGE,
}
# Jobs of one recipe have one model, whatever becomes of their pods.
RECIPES: dict[str, JsonObject] = {
    "one process": {},
    "two ranks in a pod": {"parallelism__gpusPerNode": 2},
    "two pods": {"parallelism__gpusPerNode": 1, "parallelism__nodes": 2},
}
_RECIPE_WEIGHTS = (6, 2, 2)
_ROW_WITHOUT_ANSWER = {"messages": [{"role": "user", "content": "Where is my parcel?"}]}


class End(StrEnum):
    """How a job has to end."""

    SUCCEEDED = "Succeeded"
    DATA_ERROR = "DataError"
    USER_ERROR = "UserError"
    DELETED = "deleted"


@dataclass(frozen=True)
class PlannedJob:
    """A job, and when it is applied."""

    name: str
    end: End
    due_seconds: float
    recipe: str = ""
    changes: JsonObject = field(default_factory=dict)


def plan_jobs(seed: int, count: int, duration_seconds: float, missing_model: str) -> tuple[PlannedJob, ...]:
    """Lay out the workload. `missing_model`: the URI of a folder that is not there."""
    choice = random.Random(f"{seed}-jobs")
    ends = _list_ends(count)
    choice.shuffle(ends)
    policies = itertools.cycle(("Delete", "Retain"))
    pace_seconds = duration_seconds * ARRIVALS_END / count
    jobs = []
    for number, end in enumerate(ends):
        due_seconds = pace_seconds * (number + choice.random())
        recipe = choice.choices(list(RECIPES), _RECIPE_WEIGHTS)[0]
        changes = {**_TRAINS, **_changes_for(end, recipe, policies, missing_model)}
        is_good = end is End.SUCCEEDED
        jobs.append(PlannedJob(f"soak-{number:02d}", end, due_seconds, recipe if is_good else "", changes))
    return tuple(jobs)


def _list_ends(count: int) -> list[End]:
    deleted = max(1, round(count * DELETED_SHARE))
    failing = max(2, round(count * FAILING_SHARE)) - deleted
    data_errors = (failing + 1) // 2
    return [
        *[End.DELETED] * deleted,
        *[End.DATA_ERROR] * data_errors,
        *[End.USER_ERROR] * (failing - data_errors),
        *[End.SUCCEEDED] * (count - deleted - failing),
    ]


def _changes_for(end: End, recipe: str, policies: Iterator[str], missing_model: str) -> JsonObject:
    match end:
        case End.DATA_ERROR:
            return {"dataset__train": [{"inline": [_ROW_WITHOUT_ANSWER]}]}
        case End.USER_ERROR:
            return {"model__source": missing_model}
        case End.DELETED:
            return {"training__maxSteps": ENDLESS, "deletionPolicy": next(policies)}
        case End.SUCCEEDED:
            return RECIPES[recipe]


def count_ends(plan: Sequence[PlannedJob]) -> dict[str, int]:
    """How many jobs have to end in each way."""
    return {end.value: sum(job.end is end for job in plan) for end in End}
