"""What every benchmark can be asked for: some of its bars, small numbers, another result file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import RESULTS


def parse_options(
    name: str, description: str | None, bars: Sequence[str], arguments: Sequence[str]
) -> argparse.Namespace:
    """Parse `--only`, `--quick` and `--output`. Parts and trials never overwrite a whole result."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    parser.add_argument("--only", nargs="+", default=[], choices=bars, metavar="BAR", help=", ".join(bars))
    parser.add_argument("--quick", action="store_true", help="small numbers: a test of the benchmark itself")
    parser.add_argument("--output", type=Path, help="the result file")
    options = parser.parse_args(arguments)
    is_whole = not options.quick and not options.only
    options.output = options.output or RESULTS / (f"{name}.json" if is_whole else f"{name}-partial.json")
    return options
