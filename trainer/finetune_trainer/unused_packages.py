"""Keeps packages out of a process that a run has no use for. Torch-free, to be called before torch is imported."""

from __future__ import annotations

import sys
from collections.abc import Collection

# What fits models: only near duplicates and some trackers need it. Not pandas, which pyarrow, being compiled, takes for
# installed whatever stands here; without these nothing imports it.
FITTING_PACKAGES = ("scipy", "sklearn")
# peft, transformers, accelerate and DeepSpeed import some of these wherever they are installed: several seconds (MLflow
# alone four, datasets and what fits models three), and a device probe. A run that opens a tracker keeps its package
# (trackers.list_packages).
_UNUSED = (
    "PIL",
    "bitsandbytes",
    "datasets",
    "deepspeed",
    "mlflow",
    "swanlab",
    "tensorboard",
    "wandb",
    *FITTING_PACKAGES,
)


def leave_out_unused_packages(keep: Collection[str] = ()) -> None:
    """Make all but `keep` not importable, as if they were not installed."""
    for name in _UNUSED:
        if name not in keep:
            # None is Python's own way to say so: import machinery, sys.modules.
            sys.modules[name] = None  # type: ignore[assignment]
