"""How long an attempt's pods may save when they are told to go: as the user says, else by what was measured.

The measurement stands in status, so that an operator that was restarted gives the next attempt the same. A Job that
exists keeps what it was made with.
"""

from __future__ import annotations

import math

from finetune_api.names import Stage
from finetune_api.spec import Checkpoints

# Prepare, export and cleanup keep nothing.
GRACE_SECONDS = 30
TRAIN_GRACE_SECONDS = 120
LONGEST_TRAIN_GRACE_SECONDS = 3600
# Stops differ, and one that is cut off loses every step since the last checkpoint.
_TIMES_MEASURED = 2
_MARGIN_SECONDS = 15


def decide_grace_seconds(stage: Stage, checkpoints: Checkpoints, stop_seconds: float | None) -> int:
    """Choose the grace period. `stop_seconds`: what a stop was last measured to need, where it was."""
    if stage is not Stage.TRAIN:
        return GRACE_SECONDS
    if checkpoints.grace_period_seconds is not None:
        return checkpoints.grace_period_seconds
    if stop_seconds is None:
        return TRAIN_GRACE_SECONDS
    wanted = math.ceil(_TIMES_MEASURED * stop_seconds + _MARGIN_SECONDS)
    return min(max(wanted, TRAIN_GRACE_SECONDS), LONGEST_TRAIN_GRACE_SECONDS)
