"""One attempt as it is to be built: everything that differs between two attempts, in one value."""

from __future__ import annotations

import math
from dataclasses import dataclass

from finetune_api.names import Stage, child_name
from finetune_api.spec import FineTuneJobSpec
from finetune_operator.job_resource import FineTuneJob


@dataclass(frozen=True)
class WantedAttempt:
    """What the builders know of an attempt beside the installation's settings."""

    job: FineTuneJob
    spec: FineTuneJobSpec
    stage: Stage
    number: int
    image: str
    grace_seconds: int
    memory_backoff: int = 0
    active_seconds_left: float | None = None

    @property
    def name(self) -> str:
        """Name of its Job, its ConfigMap and its Service."""
        return child_name(self.job.name, self.stage, self.number)

    @property
    def nodes(self) -> int:
        """Number of its pods."""
        return self.spec.parallelism.nodes if self.stage is Stage.TRAIN else 1

    @property
    def is_gang(self) -> bool:
        """Whether its pods have to find each other."""
        return self.nodes > 1

    @property
    def is_owned(self) -> bool:
        """Whether the garbage collector removes it with the FineTuneJob. What cleans up behind the job must stay."""
        return self.stage is not Stage.CLEANUP

    @property
    def deadline_seconds(self) -> int | None:
        """What is left of the job's running time, in whole seconds; Kubernetes refuses 0."""
        left = self.active_seconds_left
        return None if left is None else max(1, math.ceil(left))
