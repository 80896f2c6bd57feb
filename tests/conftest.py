"""What holds for every suite."""

from __future__ import annotations

import gc

import pytest


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Take what a module imported out of the collector's sight: Trainer collects after every few steps.

    By the thousandth test each of its collections would look at millions of objects that stay anyway.
    """
    if nextitem is None or nextitem.path != item.path:
        gc.collect()
        gc.freeze()


def pytest_unconfigure() -> None:
    """At the end everything may go."""
    gc.unfreeze()
