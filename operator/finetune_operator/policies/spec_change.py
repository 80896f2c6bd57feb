"""Whether an attempt that waits to start was made from a spec that has been edited since."""

from __future__ import annotations

from finetune_api.reasons import Reason
from finetune_api.spec import FineTuneJobSpec
from finetune_operator.gang import Gang
from finetune_operator.policies.stop import Stop
from finetune_operator.spec_digest import spec_digest


def decide_replacement(spec: FineTuneJobSpec, gang: Gang) -> Stop | None:
    """Replace an attempt none of whose containers has started: what was wrong with the spec may be why it waits.

    One that runs is left alone; the edit holds from the next attempt on. So is one whose Job carries no digest,
    because an earlier version of the operator made it.
    """
    made_from = gang.job.spec_digest if gang.job else ""
    has_begun = any(pod.started is not None for pod in gang.pods)
    if not made_from or has_begun or made_from == spec_digest(spec):
        return None
    return Stop(Reason.SPEC_CHANGED, "The spec was edited before the attempt had started.")
