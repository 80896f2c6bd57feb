"""What export writes: adapter/, merged/, or both. Which of them there can be hangs on the method."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_api.spec import FineTuneJobSpec, MethodType

_WITHOUT_ADAPTER = frozenset({MethodType.FULL})
_WITHOUT_MERGING = frozenset({MethodType.PREFIX_TUNING, MethodType.PROMPT_TUNING})


@dataclass(frozen=True)
class Deliverables:
    """The folders of a run's result; at least one."""

    adapter: bool
    merged: bool


def decide_deliverables(spec: FineTuneJobSpec) -> Deliverables:
    """Take what the job wants, less what its method does not have. The API refuses to ask for that outright."""
    return Deliverables(
        adapter=spec.output.adapter and spec.method.type not in _WITHOUT_ADAPTER,
        merged=spec.output.merged.enabled and can_be_merged(spec.method.type),
    )


def can_be_merged(method: MethodType) -> bool:
    """Whether the base's weights can hold what was trained; virtual tokens are no weights."""
    return method not in _WITHOUT_MERGING
