"""A soak on one page, and as a bar of the quality plan."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

from benchmarks.bars import Bar, Figure
from tests.e2e.jobs import attempts_of
from tests.soak.course import Course
from tests.soak.verdict import Verdict
from tests.soak.workload import End, PlannedJob, count_ends

_SHOWN_PROBLEMS = 30


def build_bar(
    plan: Sequence[PlannedJob], course: Course, verdict: Verdict, disturbances: Mapping[str, int], seed: int
) -> Bar:
    """What was counted, and what it is held to."""
    good = sum(job.end is End.SUCCEEDED for job in plan)
    statuses = {name: each.get("status", {}) for name, each in course.objects.items()}
    attempts = [attempt for status in statuses.values() for attempt in status.get("attempts", [])]
    seconds = [
        course.seconds[job.name] for job in plan if job.end is End.SUCCEEDED and job.name in course.seconds
    ]
    details = {
        "seed": seed,
        "ends": count_ends(plan),
        "disturbances": dict(disturbances),
        "attempts": len(attempts),
        "trainAttempts": sum(len(attempts_of(status)) for status in statuses.values()),
        "endsOfAttempts": dict(
            Counter(f"{each['stage']}: {each.get('reason') or each['outcome']}" for each in attempts)
        ),
        "preemptions": sum(status.get("preemptions", 0) for status in statuses.values()),
        "stepsLost": sum(status.get("stepsLost", 0) for status in statuses.values()),
        "medianSecondsToSucceeded": statistics.median(seconds) if seconds else None,
        "longestSecondsToSucceeded": max(seconds, default=None),
        "problems": list(verdict.problems),
    }
    return Bar(
        "soak",
        "seeded chaos over many jobs: every job ends as it has to, and nothing is left",
        (
            Figure("ends", len(plan) - len(verdict.wrong_ends), "jobs", len(plan), more_is_better=True),
            Figure("equalModels", good - len(verdict.wrong_models), "jobs", good, more_is_better=True),
            Figure("orphans", len(verdict.orphans), "objects", 0),
            Figure("leftInStore", len(verdict.left_in_store), "folders, objects and uploads", 0),
        ),
        details,
    )


def describe(bar: Bar, minutes: float) -> str:
    """One page for people."""
    details = bar.details
    lines = [
        "",
        f"soak: {minutes:.1f} min, seed {details['seed']}",
        "",
        f"  {'jobs that had to end as':<28}{_list(details['ends'])}",
        f"  {'disturbances':<28}{_list(details['disturbances'])}",
        f"  {'attempts':<28}{details['attempts']}, of training {details['trainAttempts']}",
        *(f"  {'':<28}{count:>4} {end}" for end, count in sorted(details["endsOfAttempts"].items())),
        f"  {'preemptions':<28}{details['preemptions']}",
        f"  {'steps lost':<28}{details['stepsLost']}",
        f"  {'seconds to Succeeded':<28}{_seconds(details['medianSecondsToSucceeded'])} (median), "
        f"{_seconds(details['longestSecondsToSucceeded'])} (longest)",
        "",
        str(bar),
    ]
    problems = details["problems"]
    lines += [f"  ✗ {each}" for each in problems[:_SHOWN_PROBLEMS]]
    if len(problems) > _SHOWN_PROBLEMS:
        lines.append(f"  … and {len(problems) - _SHOWN_PROBLEMS} more")
    return "\n".join(lines)


def _list(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"
