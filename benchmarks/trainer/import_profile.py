"""Reads what `python -X importtime` writes: which packages the start of a process goes to. Pure."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

# "import time:      self [us] |   cumulative | imported package", the package indented by its depth.
_LINE = re.compile(r"^import time:\s+(\d+) \|\s+(\d+) \|\s+(\S+)$", re.MULTILINE)
_LISTED = 20
_MICROSECONDS = 1e6


def read_import_profile(text: str) -> dict[str, Any]:
    """Seconds by package (each module's own time), and the modules that took longest with all they import."""
    imports = [(int(own), int(cumulative), name) for own, cumulative, name in _LINE.findall(text)]
    by_package: Counter[str] = Counter()
    for own, _, name in imports:
        by_package[name.partition(".")[0]] += own
    longest = sorted(imports, key=lambda each: -each[1])[:_LISTED]
    return {
        "seconds": sum(own for own, _, _ in imports) / _MICROSECONDS,
        "modules": len(imports),
        "secondsByPackage": {name: own / _MICROSECONDS for name, own in by_package.most_common(_LISTED)},
        "secondsWithImports": {name: cumulative / _MICROSECONDS for _, cumulative, name in longest},
    }
