"""`make soak`: FineTuneJobs on a real cluster while operator, pods, store and apiserver are killed at random.

Every job has to end as it must, equal jobs with equal models, and nothing may be left of anything. One seed gives one
workload and one sequence of disturbances; whom they hit depends on the machine.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from benchmarks.bars import Bar
from benchmarks.machine import describe_machine, describe_versions
from benchmarks.report import RESULTS, write_report
from devcluster.cluster import open_cluster
from devcluster.console import QUIET
from examples.quickstart.environment import Environment, QuickstartError
from tests.builders.tiny_models import make_tokenizer, write_model
from tests.e2e import installation
from tests.e2e.bucket import fill_bucket
from tests.e2e.dev_cluster import running_cluster
from tests.e2e.evidence import Evidence
from tests.e2e.jobs import Jobs, create_jobs
from tests.e2e.nodes import STATE
from tests.soak import summary
from tests.soak.chaos import Chaos
from tests.soak.course import Course, play
from tests.soak.verdict import Verdict, judge
from tests.soak.workload import plan_jobs

FULL_MINUTES, FULL_JOBS = 30.0, 50
PACKAGES = ("kopf", "kubernetes", "torch", "transformers", "boto3", "finetune-operator")
LOGS = Path(".test-results/soak")


class EventLog:
    """One line an event, printed and kept."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        self._path = path
        self._began = time.monotonic()

    def say(self, words: str) -> None:
        """Write a line with the time since the beginning."""
        minutes, seconds = divmod(time.monotonic() - self._began, 60)
        line = f"{minutes:02.0f}:{seconds:04.1f} {words}"
        print(line, flush=True)
        with self._path.open("a") as log:
            log.write(f"{line}\n")


def soak(options: argparse.Namespace, environment: Environment) -> Bar:
    """Play the whole course, judge it, and keep what shows why something went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        base = write_model(Path(folder), vocab_size=len(make_tokenizer()))
        bucket = fill_bucket(environment.store, "soak", base)
    evidence = Evidence()
    jobs = create_jobs(environment, f"soak-{options.seed}-{int(time.time()) % 100_000}", bucket, evidence)
    log = EventLog(LOGS / "events.log")
    duration_seconds = 60 * options.minutes
    plan = plan_jobs(options.seed, options.jobs, duration_seconds, bucket.uri("no-model"))
    chaos = Chaos(options.seed, open_cluster(STATE.root, QUIET), jobs, log.say)
    try:
        course = play(plan, jobs, chaos, log.say, duration_seconds)
        keep_evidence(course, evidence, jobs)
        verdict: Verdict = judge(plan, course, jobs)
    finally:
        chaos.heal()
        jobs.kubectl("delete", "namespace", jobs.namespace, "--wait=false", "--ignore-not-found")
    return summary.build_bar(plan, course, verdict, chaos.counts, options.seed)


def keep_evidence(course: Course, evidence: Evidence, jobs: Jobs) -> None:
    """Write down what a person would look at, before it is deleted."""
    with suppress(QuickstartError):
        (LOGS / "namespace.txt").write_text(evidence.show(jobs.environment, jobs.namespace))
    for where, text in evidence.texts.items():
        (LOGS / f"{where.replace('/', ' ')}.txt").write_text(text)


def main(arguments: Sequence[str]) -> int:
    """Run a soak; 0 where nothing was wrong."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=FULL_MINUTES, help="of disturbances (default: 30)")
    parser.add_argument("--jobs", type=int, default=FULL_JOBS, help="FineTuneJobs (default: 50)")
    parser.add_argument("--seed", type=int, default=1, help="of the workload and the disturbances")
    parser.add_argument("--output", type=Path, help="the result file")
    options = parser.parse_args(arguments)
    is_full = options.minutes >= FULL_MINUTES and options.jobs >= FULL_JOBS
    machine, began = describe_machine(), time.monotonic()
    with running_cluster() as cluster:
        installation.install(cluster.environment)
        if cluster.was_running:
            installation.restart(cluster.environment)
        os.environ["PATH"] = cluster.environment.variables["PATH"]
        bar = soak(options, cluster.environment)
    seconds = time.monotonic() - began
    output = options.output or RESULTS / ("soak.json" if is_full else "soak-partial.json")
    write_report(
        output,
        [bar],
        machine,
        describe_versions(PACKAGES),
        seconds=round(seconds, 1),
        minutesOfDisturbances=options.minutes,
        isFull=is_full,
        seed=options.seed,
    )
    print(summary.describe(bar, seconds / 60))
    print(f"\nwritten to {output}; events and logs in {LOGS}")
    return int(not bar.met)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
