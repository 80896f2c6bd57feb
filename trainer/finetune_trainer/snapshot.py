"""The state of a run as files: what a checkpoint holds beside the commit protocol.

Adapter, optimizer moments by parameter name, schedule, random numbers of every rank, counters. safetensors and JSON,
nothing pickled. Saved by name, so a run may go on with another number of ranks.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from peft import PeftModel
from pydantic import JsonValue
from safetensors.torch import load_file, save, save_file
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from finetune_api.base import ApiModel
from finetune_trainer.adapters import SAFETENSORS_METADATA, save_adapter
from finetune_trainer.gang import Gang

logger = logging.getLogger(__name__)

OPTIMIZER_NAME = "optimizer.safetensors"
STATE_NAME = "state.json"
_SEPARATOR = "|"

NumpyWords = np.ndarray[tuple[int], np.dtype[np.uint32]]


class TrainerSnapshot(ApiModel):
    """`state.json`: the small part of a checkpoint. The position in the data follows from `step` and the seed."""

    schema_version: int = 1
    step: int
    world_size: int
    threads: int
    device_type: str
    torch_version: str
    scheduler: dict[str, JsonValue]
    group_learning_rates: tuple[float, ...]


@dataclass(frozen=True)
class LiveState:
    """What training changes, as Trainer hands it to callbacks."""

    model: PeftModel
    optimizer: Optimizer
    scheduler: LRScheduler

    @classmethod
    def from_callback(cls, arguments: Mapping[str, object]) -> LiveState:
        """Take the keyword arguments of a callback."""
        model, optimizer = arguments["model"], arguments["optimizer"]
        scheduler = arguments["lr_scheduler"]
        assert isinstance(model, PeftModel), "the adapter's model is what is trained"
        assert isinstance(optimizer, Optimizer), "accelerate's optimizer is one of torch's"
        assert isinstance(scheduler, LRScheduler), "the schedules in use are torch's"
        return cls(model, optimizer, scheduler)


def save_shared_state(directory: Path, step: int, live: LiveState, gang: Gang) -> None:
    """Write what is the same on every rank: called by rank 0."""
    save_adapter(live.model, directory)
    moments = {
        f"{name}{_SEPARATOR}{key}": tensor.detach().cpu().contiguous()
        for name, state in _named_optimizer_state(live)
        for key, tensor in state.items()
    }
    save_file(dict(sorted(moments.items())), directory / OPTIMIZER_NAME, metadata=SAFETENSORS_METADATA)
    snapshot = TrainerSnapshot(
        step=step,
        world_size=gang.world_size,
        threads=torch.get_num_threads(),
        device_type=gang.device.type,
        torch_version=torch.__version__,
        scheduler=_plain_state(live.scheduler.state_dict()),
        group_learning_rates=tuple(float(group["lr"]) for group in live.optimizer.param_groups),
    )
    (directory / STATE_NAME).write_text(snapshot.model_dump_json(indent=2) + "\n", encoding="utf-8")


def load_snapshot(directory: Path) -> TrainerSnapshot:
    """Read the small part of a downloaded checkpoint."""
    return TrainerSnapshot.model_validate_json((directory / STATE_NAME).read_text(encoding="utf-8"))


def restore_optimizer(directory: Path, snapshot: TrainerSnapshot, live: LiveState) -> None:
    """Put moments, step counts and the schedule back."""
    saved: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in load_file(directory / OPTIMIZER_NAME).items():
        name, _, field = key.rpartition(_SEPARATOR)
        saved.setdefault(name, {})[field] = tensor
    state = live.optimizer.state_dict()
    state["state"] = {index: saved[name] for index, name in enumerate(_parameter_names(live))}
    live.optimizer.load_state_dict(state)
    _restore_schedule(snapshot, live)


def _restore_schedule(snapshot: TrainerSnapshot, live: LiveState) -> None:
    """Go on at the checkpoint's step of this job's own schedule: after resumeFrom it may be another one."""
    scheduler = live.scheduler
    own = {"base_lrs": scheduler.base_lrs, "lr_lambdas": [None] * len(scheduler.base_lrs)}
    scheduler.load_state_dict({**snapshot.scheduler, **own})
    assert isinstance(scheduler, LambdaLR), "the schedules in use are functions of the step"
    rates = [
        float(base) * function(scheduler.last_epoch)
        for base, function in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    ]
    for group, rate in zip(live.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = list(rates)
    if tuple(rates) != snapshot.group_learning_rates:
        logger.info(
            "the learning rate goes on at %g as this job's schedule has it; the checkpoint's run had %g here",
            rates[0],
            snapshot.group_learning_rates[0],
        )


# --- random numbers --------------------------------------------------------------------------------------------


def encode_random_state(gang: Gang) -> bytes:
    """This rank's random number generators as the bytes of their file: rank 0 writes those of all pods."""
    tensors = {"torch": torch.get_rng_state()}
    if gang.device.type == "cuda":
        tensors["cuda"] = torch.cuda.get_rng_state(gang.device)
    _, words, gauss = random.getstate()
    tensors["python"] = torch.tensor(words, dtype=torch.int64)
    assert gauss is None, "nothing in this program draws Gaussian numbers from the random module"
    _, numpy_words, position, *_ = cast(tuple[str, NumpyWords, int, int, float], np.random.get_state())
    tensors["numpy"] = torch.from_numpy(np.append(numpy_words.astype(np.int64), position))
    encoded: bytes = save(tensors, metadata=SAFETENSORS_METADATA)
    return encoded


def save_random_states(directory: Path, states: Sequence[bytes]) -> None:
    """Write the generators of all ranks, in their order."""
    for rank, state in enumerate(states):
        _random_state_path(directory, rank).write_bytes(state)


def restore_random_state(directory: Path, gang: Gang, snapshot: TrainerSnapshot) -> bool:
    """Put this rank's generators back; False where they mean nothing: another number of ranks or kind of device."""
    if snapshot.world_size != gang.world_size or snapshot.device_type != gang.device.type:
        return False
    tensors = load_file(_random_state_path(directory, gang.rank))
    torch.set_rng_state(tensors["torch"])
    if gang.device.type == "cuda":
        torch.cuda.set_rng_state(tensors["cuda"], gang.device)
    random.setstate((3, tuple(tensors["python"].tolist()), None))
    words = tensors["numpy"].numpy()
    np.random.set_state(("MT19937", words[:-1].astype(np.uint32), int(words[-1]), 0, 0.0))
    return True


def _random_state_path(directory: Path, rank: int) -> Path:
    return directory / f"random-{rank:05d}.safetensors"


# --- names -----------------------------------------------------------------------------------------------------


def _parameter_names(live: LiveState) -> list[str]:
    """Names of the optimizer's parameters in the order of its state_dict."""
    names = {id(parameter): name for name, parameter in live.model.named_parameters()}
    return [names[id(parameter)] for group in live.optimizer.param_groups for parameter in group["params"]]


def _named_optimizer_state(live: LiveState) -> list[tuple[str, dict[str, torch.Tensor]]]:
    by_index = cast(dict[int, dict[str, torch.Tensor]], live.optimizer.state_dict()["state"])
    return [(name, by_index[index]) for index, name in enumerate(_parameter_names(live))]


def _plain_state(state: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    # Functions of the schedule are not state: they come from the job again.
    return {key: value for key, value in state.items() if key != "lr_lambdas"}
