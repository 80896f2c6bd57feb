"""Keeps packages out of a process that a run has no use for. Torch-free, to be called before torch is imported."""

from __future__ import annotations

import sys

# peft, transformers and accelerate import these wherever they are installed: several seconds, and a device probe.
_UNUSED = ("bitsandbytes", "deepspeed")


def leave_out_unused_packages() -> None:
    """Make them not importable, as if they were not installed."""
    for name in _UNUSED:
        # None is Python's own way to say so: import machinery, sys.modules.
        sys.modules[name] = None  # type: ignore[assignment]
