"""One training process: listens for SIGTERM before anything slow is imported, runs train, leaves its result.

`python -m finetune_trainer.rank --job PATH`, started by the launcher.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import logging
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_api.job_file import JobFile
from finetune_api.reasons import FAILURE_CLASS_OF_EXIT_CODE
from finetune_api.spec import FineTuneJobSpec, MethodType, Optimizer
from finetune_api.termination import TrainedFacts
from finetune_trainer.errors import StageError
from finetune_trainer.job import load_job
from finetune_trainer.logs import configure_logging
from finetune_trainer.memory_errors import out_of_memory
from finetune_trainer.parallelism import may_use_deepspeed
from finetune_trainer.parent_death import die_with_launcher
from finetune_trainer.stop_request import StopRequest
from finetune_trainer.termination import failure_of
from finetune_trainer.trackers import list_packages
from finetune_trainer.unused_packages import leave_out_unused_packages
from finetune_trainer.work_directory import RankResult, WorkDirectory

if TYPE_CHECKING:
    from types import ModuleType

logger = logging.getLogger("finetune_trainer")

# What gloo and NCCL say when the other end of a connection has gone.
_SIGNS_OF_A_LOST_RANK = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Connection refused",
    "Broken pipe",
    "NCCL communicator was aborted",
    "ncclRemoteError",
)


def main(arguments: list[str] | None = None) -> int:
    """Run one rank; leave its result; return its exit code."""
    stop = StopRequest()
    stop.listen()
    # The launcher asks for the stacks of a run that hangs. Written in C, so that a held GIL does not matter.
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    options = _parse(arguments)
    die_with_launcher(options.launcher)
    configure_logging()
    rank, work = int(os.environ.get("RANK", "0")), WorkDirectory.from_environment()
    result = _run(options.job, work, stop, rank)
    try:
        work.rank_result(rank).write_text(result.model_dump_json(), encoding="utf-8")
    except OSError as error:
        logger.error("the launcher has to make do with the exit code: %s", error)
    return result.exit_code


def _run(job_path: Path, work: WorkDirectory, stop: StopRequest, rank: int) -> RankResult:
    try:
        job = load_job(job_path)
        facts: TrainedFacts = _import_train(job).train(job, work, stop)
    except Exception as error:
        return _failed(error, rank)
    message = f"Training is done: {facts.step} steps."
    return RankResult(
        rank=rank, exit_code=0, message=message, step=facts.step, ended=time.time(), trained=facts
    )


def _failed(error: Exception, rank: int) -> RankResult:
    known = error if isinstance(error, StageError) else out_of_memory(error) or error
    exit_code, message = failure_of(known)
    if known is error and exit_code == 1:
        logger.error("unexpected error\n%s", traceback.format_exc())
    else:
        logger.error("%s: %s", message.reason, message.message)
    return RankResult(
        rank=rank,
        exit_code=exit_code,
        message=message.message if exit_code in FAILURE_CLASS_OF_EXIT_CODE else describe_unexpected(error),
        step=message.step,
        failed_rank=message.rank,
        ended=time.time(),
    )


def describe_unexpected(error: Exception) -> str:
    """Say what nobody understands, and apart from it that another rank is gone: that one knows why."""
    text = str(error)
    if any(sign in text for sign in _SIGNS_OF_A_LOST_RANK):
        return f"it lost another rank, which knows why ({text.splitlines()[0]})"
    return f"{type(error).__name__}: {text}"


def _import_train(job: JobFile) -> ModuleType:
    leave_out_unused_packages(packages_of(job.spec))
    if job.spec.parallelism.gpus_per_node == 0:
        # DeepSpeed would look for every kind of device that it knows.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    return importlib.import_module("finetune_trainer.train")


def packages_of(spec: FineTuneJobSpec) -> frozenset[str]:
    """Packages that this run imports, of those that cost time wherever they are installed."""
    world_size = spec.parallelism.nodes * max(1, spec.parallelism.gpus_per_node)
    needs_bitsandbytes = (
        spec.method.type is MethodType.QLORA or spec.training.optimizer is not Optimizer.ADAM_W
    )
    return (
        list_packages(spec.tracking)
        | (frozenset({"bitsandbytes"}) if needs_bitsandbytes else frozenset())
        | (frozenset({"deepspeed"}) if may_use_deepspeed(spec.parallelism, world_size) else frozenset())
    )


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="finetune_trainer.rank", description=__doc__)
    parser.add_argument("--job", type=Path, required=True)
    parser.add_argument("--launcher", type=int, help="pid of the process that started this one")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    # Worker threads of torch may be stuck in a collective that lost its peers: nothing of them is waited for.
    code = main()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
