"""A server that has imported torch and all that trains, to fork processes from: they begin at once."""

from __future__ import annotations

import multiprocessing
import os
from functools import cache
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from typing import Any

_PRELOADED = (
    "torch",
    "torch.distributed.fsdp",
    "bitsandbytes",
    "deepspeed",
    "transformers",
    "peft",
    "finetune_trainer.train",
    "finetune_trainer.engines.zero",
    "finetune_trainer.engines.fsdp",
    "tests.matrix.rank",
    "tests.builders.forked_pods",
)
_ENVIRONMENT = {
    "DS_ACCELERATOR": "cpu",
    "OMP_NUM_THREADS": "1",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "GLOO_SOCKET_IFNAME": "lo",
}


@cache
def fork_server() -> ForkServerContext:
    """The context whose server has imported everything; it starts before it has any thread."""
    context = multiprocessing.get_context("forkserver")
    # A process has one, and prepare's may run already, which has imported what reads rows and no more.
    server: Any = forkserver._forkserver
    server._stop()
    context.set_forkserver_preload(list(_PRELOADED))
    before = dict(os.environ)
    os.environ.update(_ENVIRONMENT)
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context
