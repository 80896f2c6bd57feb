"""Machine-readable reasons: failure classes of attempts, and the words of conditions and events."""

from __future__ import annotations

from enum import StrEnum

from finetune_api.exit_codes import ExitCode


class FailureClass(StrEnum):
    """Why an attempt ended. It is the attempt's reason in `status.attempts[]`."""

    USER_ERROR = "UserError"
    DATA_ERROR = "DataError"
    OUT_OF_MEMORY = "OutOfMemory"
    STORAGE_DENIED = "StorageDenied"
    NON_FINITE_LOSS = "NonFiniteLoss"
    STORAGE_UNAVAILABLE = "StorageUnavailable"
    STALLED = "Stalled"
    PREEMPTED = "Preempted"
    EVICTED = "Evicted"
    NODE_LOST = "NodeLost"
    DELETED = "Deleted"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    UNKNOWN = "Unknown"

    @property
    def ends_job(self) -> bool:
        """Whether trying again cannot help."""
        return self in _FINAL


_FINAL = frozenset(
    {
        FailureClass.USER_ERROR,
        FailureClass.DATA_ERROR,
        FailureClass.OUT_OF_MEMORY,
        FailureClass.STORAGE_DENIED,
        FailureClass.NON_FINITE_LOSS,
        FailureClass.DEADLINE_EXCEEDED,
    }
)

FAILURE_CLASS_OF_EXIT_CODE: dict[int, FailureClass] = {
    ExitCode.USER_ERROR: FailureClass.USER_ERROR,
    ExitCode.DATA_ERROR: FailureClass.DATA_ERROR,
    ExitCode.OUT_OF_MEMORY: FailureClass.OUT_OF_MEMORY,
    ExitCode.STORAGE_DENIED: FailureClass.STORAGE_DENIED,
    ExitCode.NON_FINITE_LOSS: FailureClass.NON_FINITE_LOSS,
    ExitCode.STORAGE_UNAVAILABLE: FailureClass.STORAGE_UNAVAILABLE,
    ExitCode.STALLED: FailureClass.STALLED,
    ExitCode.PREEMPTED: FailureClass.PREEMPTED,
}


class Reason(StrEnum):
    """Reasons of conditions, `status.reason` and events beside failure classes. Stable: users alert on them."""

    INVALID_SPEC = "InvalidSpec"
    ACCEPTED = "Accepted"
    NOT_STARTED = "NotStarted"
    PREPARING = "Preparing"
    PREPARED = "Prepared"
    TRAINING = "Training"
    TRAINED = "Trained"
    RESTARTING = "Restarting"
    EXPORTING = "Exporting"
    EXPORTED = "Exported"
    SUCCEEDED = "Succeeded"
    IN_PROGRESS = "InProgress"
    RESTARTS_EXHAUSTED = "RestartsExhausted"
    QUEUED = "Queued"
    KUEUE_EVICTED = "KueueEvicted"
    QUEUE_NOT_SERVED = "QueueNotServed"
    SUSPENDING = "Suspending"
    SUSPENDED = "Suspended"
    NOT_SUSPENDED = "NotSuspended"
    UNSUSPENDED = "Unsuspended"
    STOPPING = "Stopping"
    RETRIED = "Retried"
    SPEC_CHANGED = "SpecChanged"
    GANG_INCOMPLETE = "GangIncomplete"
    STOPPED_AFTER_PREPARE = "StoppedAfterPrepare"
    PENDING_DEADLINE_EXCEEDED = "PendingDeadlineExceeded"
    ACTIVE_DEADLINE_EXCEEDED = "ActiveDeadlineExceeded"
    # What happens to the store when the FineTuneJob is deleted.
    CLEANING_UP = "CleaningUp"
    CLEANED_UP = "CleanedUp"
    STORE_KEPT = "StoreKept"
    # Why a stage waits.
    WAITING_FOR_POD = "WaitingForPod"
    UNSCHEDULABLE = "Unschedulable"
    IMAGE_PULL = "ImagePull"
    MISSING_REFERENCE = "MissingReference"
    FORBIDDEN = "Forbidden"
    QUOTA_EXCEEDED = "QuotaExceeded"
    NAME_CONFLICT = "NameConflict"
    # Events of the train stage.
    CHECKPOINT_SAVED = "CheckpointSaved"
    RESUMED = "Resumed"
