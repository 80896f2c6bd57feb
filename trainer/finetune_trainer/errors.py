"""The ways in which a stage fails: each class has an exit code, each message says what to do next.

Two fates: below exit code 20 the user must act, from 20 on time heals and the operator starts another attempt.
"""

from __future__ import annotations

from typing import ClassVar

from finetune_api.exit_codes import ExitCode
from finetune_api.reasons import FAILURE_CLASS_OF_EXIT_CODE, FailureClass
from finetune_api.termination import TrainedFacts


class StageError(Exception):
    """A failure that is understood. Its text is one sentence for people: object, value, next action."""

    exit_code: ClassVar[ExitCode]

    def __init__(self, message: str, *, step: int | None = None, rank: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.step = step
        # The process that failed first, where there are several.
        self.rank = rank
        # The newest checkpoint that the attempt had committed, whatever it failed of.
        self.saved: TrainedFacts | None = None

    @property
    def failure_class(self) -> FailureClass:
        """The word that stands for this failure in status."""
        return FAILURE_CLASS_OF_EXIT_CODE[self.exit_code]


class UserError(StageError):
    """The job asks for something that cannot be done."""

    exit_code = ExitCode.USER_ERROR


class ObjectMissing(UserError):
    """An object, or a bucket, that the job names does not exist."""


class DataError(StageError):
    """The training rows cannot be used as they are."""

    exit_code = ExitCode.DATA_ERROR


class OutOfMemory(StageError):
    """The model, the batch or the data do not fit in memory."""

    exit_code = ExitCode.OUT_OF_MEMORY


class StorageDenied(StageError):
    """The store answers, and refuses."""

    exit_code = ExitCode.STORAGE_DENIED


class NonFiniteLoss(StageError):
    """The loss became NaN or infinite."""

    exit_code = ExitCode.NON_FINITE_LOSS


class StorageUnavailable(StageError):
    """The store does not answer, also not after retries."""

    exit_code = ExitCode.STORAGE_UNAVAILABLE


class ObjectDamaged(StorageUnavailable):
    """An object does not have the checksum it was stored with, or that its manifest says."""


class CheckpointCorrupt(ObjectDamaged):
    """A committed checkpoint does not hold what its manifest says; the one before it is used."""


class Stalled(StageError):
    """No step was finished for too long."""

    exit_code = ExitCode.STALLED


class Preempted(StageError):
    """The pod was told to go and has saved its work."""

    exit_code = ExitCode.PREEMPTED


class Superseded(Preempted):
    """Another pod has claimed the run: this one may write no more."""


class RankLost(Exception):
    """A rank ended in a way that nobody understands; another attempt may do better."""

    def __init__(self, message: str, rank: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.rank = rank
        self.saved: TrainedFacts | None = None
