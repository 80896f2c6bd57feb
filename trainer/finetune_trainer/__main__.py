"""`python -m finetune_trainer {prepare,train,export,cleanup} --job PATH`: runs one stage and says how it ended."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from finetune_api import names
from finetune_api.job_file import JobFile
from finetune_api.names import Stage
from finetune_api.termination import TerminationMessage
from finetune_trainer.errors import Preempted, StageError
from finetune_trainer.job import load_job
from finetune_trainer.logs import configure_logging
from finetune_trainer.termination import failure_of, write_termination_message
from finetune_trainer.unused_packages import FITTING_PACKAGES, leave_out_unused_packages

logger = logging.getLogger("finetune_trainer")

StageFunction = Callable[[JobFile, Path], TerminationMessage]

# Imported when needed: prepare must not import torch, and train's parent process must not either.
_STAGES: dict[Stage, tuple[str, str]] = {
    Stage.PREPARE: ("finetune_trainer.prepare", "run"),
    Stage.TRAIN: ("finetune_trainer.launcher", "main"),
    Stage.EXPORT: ("finetune_trainer.export", "run"),
    Stage.CLEANUP: ("finetune_trainer.cleanup", "run"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run the stage; leave a termination message; return the exit code."""
    options = _parse(arguments)
    configure_logging()
    _ensure_temporary_directory()
    try:
        job = load_job(options.job)
        message = _stage_function(options.stage)(job, options.job)
    except StageError as error:
        logger.error("%s: %s", error.failure_class, error.message)
        return _fail(error)
    except Exception as error:
        logger.exception("%s ended by an unexpected error", options.stage)
        return _fail(error)
    write_termination_message(message)
    logger.info("%s: %s", message.reason, message.message)
    return 0


def _ensure_temporary_directory() -> None:
    # The root file system is read-only and TMPDIR points into the work volume, which starts empty.
    if temporary := os.environ.get("TMPDIR"):
        Path(temporary).mkdir(parents=True, exist_ok=True)


def _fail(error: Exception) -> int:
    exit_code, message = failure_of(error)
    write_termination_message(message)
    return exit_code


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="finetune_trainer", description=__doc__)
    parser.add_argument("stage", type=Stage, choices=list(Stage), help="what to run")
    parser.add_argument("--job", type=Path, default=Path(names.JOB_FILE_PATH), help="the job file")
    return parser.parse_args(arguments)


def _stage_function(stage: Stage) -> StageFunction:
    if stage is not Stage.TRAIN:  # the launcher has ranks to tell and installs its own handler
        signal.signal(signal.SIGTERM, _on_sigterm)
    # Near duplicates are looked for with scikit-learn.
    leave_out_unused_packages(keep=FITTING_PACKAGES if stage is Stage.PREPARE else ())
    module, function = _STAGES[stage]
    stage_function: StageFunction = getattr(importlib.import_module(module), function)
    return stage_function


def _on_sigterm(signal_number: int, frame: FrameType | None) -> None:
    # Without a handler PID 1 ignores SIGTERM and is killed at the end of the grace period.
    raise Preempted("The pod was told to end before the stage was done. The next attempt starts it again.")


if __name__ == "__main__":
    sys.exit(main())
