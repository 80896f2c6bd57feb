"""What a process of its own sees of a model that it loads: its memory, its number formats."""

from __future__ import annotations

import os
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from finetune_trainer.engines.zero import ZeroEngine
from finetune_trainer.gang import join_gang
from finetune_trainer.model import decide_precision
from finetune_trainer.model_loading import ModelRecipe, load_tuned_model
from finetune_trainer.parallelism import build_deepspeed_config, decide_plan
from finetune_trainer.run_file import MethodFacts
from tests.builders.fork_server import fork_server
from tests.matrix.runner import make_spec


def in_a_process(function: Any, *arguments: Any) -> Any:
    """What the function sends, called in a forked process that has imported everything."""
    context = fork_server()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=function, args=(*arguments, sender), daemon=True)
    process.start()
    sender.close()
    try:
        return receiver.recv()
    finally:
        process.join(10)
        process.kill()


def load_model(base: Path, strategy: str, sender: Connection) -> None:
    torch.set_num_threads(1)
    spec = make_spec(method={"type": "Full"}, parallelism__strategy=strategy)
    recipe = ModelRecipe(
        spec=spec,
        facts=MethodFacts(),
        base=base,
        plan=decide_plan(spec, 2, None, lambda _: 0),
        precision=decide_precision(spec.training.precision, "cpu", spec.method.type),
        device=torch.device("cpu"),
        total_steps=1,
    )
    before = _anonymous_bytes()
    tuned = load_tuned_model(recipe)
    sender.send((_anonymous_bytes() - before, {each.dtype for each in tuned.model.parameters()}))


def _anonymous_bytes() -> int:
    """Memory that belongs to this process alone; a mapped file's is the page cache's. Source: proc(5)."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024


def split_by_zero(base: Path, sender: Connection) -> None:
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    gang = join_gang(timedelta(seconds=60), needs_group=True)
    spec = make_spec(method={"type": "Full"}, parallelism__strategy="ZeRO3")
    config = build_deepspeed_config(
        decide_plan(spec, 1, None, lambda _: 0), tuning=None, max_grad_norm=1.0, compute="bf16", world_size=1
    )
    model = AutoModelForCausalLM.from_pretrained(base)
    engine = ZeroEngine(config, gang.device, torch.bfloat16)
    engine.prepare(model, lambda trained: torch.optim.AdamW(trained.parameters()))
    sender.send([{each.dtype for each in group()} for group in (model.parameters, model.buffers)])
