"""Runs tests at the same time: most of a test on real pods is waiting for them.

A function marked by `@side_by_side` takes a Jobs, with a namespace of its own, and its parameters. The first such test that
pytest comes to starts all of them, a few at a time; each test then reports how its function ended.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import pytest

from tests.e2e import deadlines
from tests.e2e.jobs import Jobs

Story = Callable[..., None]
OpenJobs = Callable[[], AbstractContextManager[Jobs]]
AT_ONCE = 4


def side_by_side(story: Story) -> Story:
    """Make a test of the function; fixtures beside `jobs` it can have none."""

    def test(request: pytest.FixtureRequest, stage: Stage, **_: Any) -> None:
        stage.result_of(request.node.nodeid)

    own = [each for name, each in inspect.signature(story).parameters.items() if name != "jobs"]
    fixtures = list(inspect.signature(test).parameters.values())[:2]
    for name in ("__module__", "__name__", "__qualname__", "__doc__"):
        setattr(test, name, getattr(story, name))
    test.__dict__.update(__signature__=inspect.Signature([*fixtures, *own]), __wrapped__=story, story=story)
    return test


def stories_of(items: Iterable[pytest.Item]) -> list[pytest.Function]:
    """The tests among these that run side by side."""
    return [item for item in items if isinstance(item, pytest.Function) and hasattr(item.function, "story")]


class Stage:
    """Where they run; as a context manager it lets none go on after its end."""

    def __init__(self, items: Sequence[pytest.Function], open_jobs: OpenJobs) -> None:
        self._open_jobs = open_jobs
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="story")
        self._results: dict[str, Future[None]] = {
            item.nodeid: self._pool.submit(self._play, item) for item in items
        }

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        deadlines.abandoned.set()
        self._pool.shutdown(cancel_futures=True)

    def result_of(self, identifier: str) -> None:
        """Wait until the test has ended; raise what it raised."""
        self._results[identifier].result()

    def _play(self, item: pytest.Function) -> None:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        with self._open_jobs() as jobs:
            item.function.story(jobs, **parameters)
