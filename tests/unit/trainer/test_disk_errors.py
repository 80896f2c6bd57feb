"""A full disk is recognised, whoever notices it."""

from __future__ import annotations

import errno

import pytest
from safetensors import SafetensorError

from finetune_api.exit_codes import ExitCode
from finetune_trainer.disk_errors import is_of_local_disk
from finetune_trainer.errors import StorageUnavailable
from finetune_trainer.storage.failures import StoreDescription, translated
from finetune_trainer.termination import failure_of

FULL = "Error while serializing: I/O error: No space left on device (os error 28)"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        pytest.param(OSError(errno.ENOSPC, "No space left on device"), True, id="no space"),
        pytest.param(OSError(errno.EDQUOT, "Disk quota exceeded"), True, id="a quota"),
        pytest.param(OSError(errno.EROFS, "Read-only file system", "/work/x"), True, id="read-only"),
        pytest.param(FileNotFoundError(errno.ENOENT, "No such file", "/work/x"), False, id="no such file"),
        pytest.param(ConnectionResetError(errno.ECONNRESET, "reset"), False, id="a lost connection"),
        pytest.param(SafetensorError(FULL), True, id="no space, as safetensors says it"),
        pytest.param(SafetensorError("header too large"), False, id="what else safetensors says"),
        pytest.param(ValueError("No space left on device"), False, id="somebody who quotes it"),
    ],
)
def test_errors_of_the_disk(error: Exception, expected: bool) -> None:
    assert is_of_local_disk(error) is expected


def test_a_full_disk_ends_a_stage_as_one_that_is_tried_again_and_says_what_to_raise() -> None:
    code, message = failure_of(OSError(errno.ENOSPC, "No space left on device"))
    assert code == ExitCode.STORAGE_UNAVAILABLE
    assert message.message.endswith("If the disk is full, raise spec.resources.ephemeralStorage.")


def test_a_full_disk_is_not_blamed_on_the_store_that_is_downloaded_from() -> None:
    store = StoreDescription("http://s3.example", None)
    with pytest.raises(OSError, match="No space left"), translated(store, "s3://models/base", "read"):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_other_errors_stay_what_they_are() -> None:
    code, _ = failure_of(StorageUnavailable("It is away."))
    assert code == ExitCode.STORAGE_UNAVAILABLE
    assert failure_of(FileNotFoundError(2, "No such file", "/work/x"))[0] == 1
