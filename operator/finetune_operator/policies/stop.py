"""Why the operator itself ends an attempt. The reason is written into the attempt before its Job is deleted."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_api.reasons import Reason


@dataclass(frozen=True)
class Stop:
    """The attempt is to end; `message` says why in a sentence."""

    reason: Reason
    message: str
