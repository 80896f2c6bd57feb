"""What ends a measurement, in a sentence."""

from __future__ import annotations


class BenchmarkError(Exception):
    """Something did not happen; there is no figure."""
