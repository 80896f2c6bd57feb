"""Whether the user wants the job to stand still, and what that does to an attempt under way."""

from __future__ import annotations

from finetune_api.reasons import Reason
from finetune_api.spec import FineTuneJobSpec
from finetune_operator.policies.stop import Stop


def decide_suspension(spec: FineTuneJobSpec) -> Stop | None:
    """Stop the attempt: its pods get SIGTERM, training saves a checkpoint, and the next attempt goes on from there."""
    if not spec.suspend:
        return None
    return Stop(Reason.SUSPENDED, "spec.suspend is true.")
