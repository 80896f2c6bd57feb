"""`make test`: runs every suite, keeps going after a failure, and prints what ran, how many, and in what time.

The budgets are those the project holds itself to on two cores; they are shown, never enforced.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(".test-results")


@dataclass(frozen=True)
class Suite:
    """One step: a pytest folder, or a check that passes or fails as a whole."""

    name: str
    command: tuple[str, ...]
    budget_minutes: float
    is_pytest: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a suite counted."""

    suite: Suite
    passed: int
    failed: int
    skipped: int
    seconds: float


def pytest_suite(name: str, budget_minutes: float, *arguments: str) -> Suite:
    """A suite that pytest runs; the arguments are folders and options."""
    report = RESULTS / f"{name}.xml"
    return Suite(name, ("pytest", "-q", f"--junitxml={report}", *arguments), budget_minutes, is_pytest=True)


SUITES = (
    Suite("format", ("ruff", "format", "--check", "."), 0.2),
    Suite("lint", ("ruff", "check", "."), 0.2),
    Suite("types", ("mypy",), 2),
    Suite("contracts", ("lint-imports",), 0.2),
    Suite("generated", ("python", "-m", "finetune_api.generate", "--check"), 0.2),
    Suite("lock", ("uv", "lock", "--check"), 0.2),
    pytest_suite("architecture", 0.5, "tests/architecture"),
    pytest_suite("unit", 3, "tests/unit"),
    pytest_suite("trainer", 12, "tests/matrix"),
    pytest_suite("integration", 25, "tests/integration"),
    pytest_suite("e2e", 12, "tests/e2e"),
)
# Only where they are named: what takes too long for every day.
LONG_SUITES = (
    pytest_suite("faults", 30, "-m", "long_fault", "tests/integration"),
    pytest_suite("matrix", 30, "-m", "whole_matrix", "tests/matrix"),
)


def run(suite: Suite) -> Outcome:
    """Run one suite, its output passed through."""
    print(f"\n=== {suite.name}: {' '.join(suite.command)}", flush=True)
    started = time.monotonic()
    status = subprocess.run(suite.command).returncode
    seconds = time.monotonic() - started
    if suite.is_pytest:
        return count(suite, status, seconds)
    return Outcome(suite, passed=int(status == 0), failed=int(status != 0), skipped=0, seconds=seconds)


def count(suite: Suite, status: int, seconds: float) -> Outcome:
    """Read pytest's report. A suite that left none, or selected no test, has failed."""
    report = RESULTS / f"{suite.name}.xml"
    if not report.exists():
        return Outcome(suite, 0, 1, 0, seconds)
    totals = ElementTree.parse(report).getroot().find("testsuite")
    assert totals is not None, f"{report} holds no testsuite"
    tests, skipped = int(totals.get("tests", 0)), int(totals.get("skipped", 0))
    failed = int(totals.get("failures", 0)) + int(totals.get("errors", 0))
    if status != 0:
        failed = max(failed, 1)
    return Outcome(suite, tests - failed - skipped, failed, skipped, seconds)


def print_summary(outcomes: Sequence[Outcome]) -> None:
    """One line a suite, then the sums."""
    print(f"\n{'suite':<14}{'passed':>8}{'failed':>8}{'skipped':>9}{'time':>9}   budget")
    for outcome in outcomes:
        minutes = f"{outcome.seconds / 60:.1f} min"
        print(
            f"{outcome.suite.name:<14}{outcome.passed:>8}{outcome.failed:>8}{outcome.skipped:>9}{minutes:>9}"
            f"   {outcome.suite.budget_minutes:g} min"
        )

    passed, failed, skipped = (
        sum(counts) for counts in zip(*((o.passed, o.failed, o.skipped) for o in outcomes), strict=True)
    )
    print(f"\n{passed} passed, {failed} failed, {skipped} skipped")


def main(arguments: Sequence[str]) -> int:
    """Run the named suites, or all but the long ones."""
    known = {suite.name: suite for suite in (*SUITES, *LONG_SUITES)}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=", ".join(known))
    wanted = parser.parse_args(arguments).suites
    unknown = set(wanted) - set(known)
    if unknown:
        parser.error(f"unknown suites: {', '.join(sorted(unknown))}")
    RESULTS.mkdir(exist_ok=True)
    for report in RESULTS.glob("*.xml"):
        report.unlink()
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    chosen = [suite for name, suite in known.items() if name in wanted] if wanted else SUITES
    outcomes = [run(suite) for suite in chosen]
    print_summary(outcomes)
    return int(any(outcome.failed for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
