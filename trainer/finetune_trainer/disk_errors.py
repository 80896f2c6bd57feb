"""Recognises that the pod's own disk is full or read-only, whoever noticed, and says what to raise. Torch-free."""

from __future__ import annotations

import errno
import os

from finetune_trainer.errors import StorageUnavailable

DISK_REMEDY = "If the disk is full, raise spec.resources.ephemeralStorage."
_NUMBERS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


def is_of_local_disk(error: BaseException) -> bool:
    """Whether an error says so."""
    if isinstance(error, OSError):
        return error.errno in _NUMBERS
    # "I/O error: No space left on device (os error 28)": safetensors has an exception of its own for whatever happens.
    return type(error).__name__ == "SafetensorError" and any(
        os.strerror(number) in str(error) for number in _NUMBERS
    )


def local_disk_error(error: BaseException) -> StorageUnavailable | None:
    """Name an error that says so; None for any other error."""
    if not is_of_local_disk(error):
        return None
    return StorageUnavailable(f"The pod's own disk cannot be written to: {error}. {DISK_REMEDY}")
