"""The termination message: how a stage tells the operator why it ended, in one place for every stage."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from finetune_api import names
from finetune_api.reasons import FailureClass
from finetune_api.termination import TerminationMessage
from finetune_trainer.disk_errors import local_disk_error
from finetune_trainer.errors import OutOfMemory, RankLost, StageError

logger = logging.getLogger(__name__)

# Outside a pod there is no /dev/termination-log to write to.
ENV_TERMINATION_MESSAGE_PATH = "FINETUNE_TERMINATION_MESSAGE_PATH"
UNEXPECTED_EXIT_CODE = 1


def write_termination_message(message: TerminationMessage) -> None:
    """Write the message where the kubelet looks for it. A failure to do so must not hide why the stage ended."""
    path = Path(os.environ.get(ENV_TERMINATION_MESSAGE_PATH, names.TERMINATION_MESSAGE_PATH))
    try:
        path.write_text(message.encode(), encoding="utf-8")
    except OSError as error:
        logger.warning("could not write the termination message to %s: %s", path, error.strerror)


def failure_of(error: BaseException) -> tuple[int, TerminationMessage]:
    """Say what an exception means for the operator: exit code and message."""
    if isinstance(error, MemoryError):
        error = OutOfMemory("The pod's memory is used up. Raise the stage's memory in spec.resources.")
    error = local_disk_error(error) or error
    if isinstance(error, StageError):
        message = TerminationMessage(
            reason=error.failure_class,
            message=error.message,
            step=error.step,
            rank=error.rank,
            trained=error.saved,
        )
        return int(error.exit_code), message
    if isinstance(error, RankLost):
        text = f"{error.message} The log has the details."
        return UNEXPECTED_EXIT_CODE, TerminationMessage(
            reason=FailureClass.UNKNOWN, message=text, rank=error.rank, trained=error.saved
        )
    text = f"Unexpected {type(error).__name__}: {error}. The log has the traceback."
    return UNEXPECTED_EXIT_CODE, TerminationMessage(reason=FailureClass.UNKNOWN, message=text)
