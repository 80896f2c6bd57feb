"""The state of a run as files: what a checkpoint holds beside the commit protocol.

Trained parameters and optimizer moments by name (state_files.py), schedule, random numbers of every rank, counters.
safetensors and JSON, nothing pickled. Saved by name, so a run may go on with another number of ranks.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from pydantic import Field, JsonValue, ValidationError
from safetensors.torch import load_file, save_file
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from finetune_api.base import ApiModel
from finetune_trainer.adapters import SAFETENSORS_METADATA
from finetune_trainer.checkpoint_files import RANDOM, rank_file_name
from finetune_trainer.early_stopping import EarlyStoppingState
from finetune_trainer.engines import Engine
from finetune_trainer.engines.engine import LossScale
from finetune_trainer.errors import UserError
from finetune_trainer.gang import Gang
from finetune_trainer.state_files import SavedState

logger = logging.getLogger(__name__)

STATE_NAME = "state.json"

NumpyWords = np.ndarray[tuple[int], np.dtype[np.uint32]]


class TrainerSnapshot(ApiModel):
    """`state.json`: the small part of a checkpoint. The position in the data follows from `step` and the seed."""

    schema_version: Literal[2] = 2
    step: int
    world_size: int
    threads: int
    device_type: str
    torch_version: str
    scheduler: dict[str, JsonValue]
    group_learning_rates: tuple[float, ...]
    # fp16's loss scaling; empty for other number formats.
    loss_scale: LossScale = Field(default_factory=dict)
    early_stopping: EarlyStoppingState | None = None


@dataclass(frozen=True)
class LiveState:
    """What training changes beside what the method keeps: parameters and moments by name, and the schedule."""

    engine: Engine
    scheduler: LRScheduler


def save_snapshot(
    directory: Path, step: int, live: LiveState, gang: Gang, early_stopping: EarlyStoppingState | None
) -> None:
    """Write the small part: called by rank 0."""
    snapshot = TrainerSnapshot(
        step=step,
        world_size=gang.world_size,
        threads=torch.get_num_threads(),
        device_type=gang.device.type,
        torch_version=torch.__version__,
        scheduler=_plain_state(live.scheduler.state_dict()),
        group_learning_rates=tuple(float(group["lr"]) for group in live.engine.schedules.param_groups),
        loss_scale=live.engine.loss_scale(),
        early_stopping=early_stopping,
    )
    (directory / STATE_NAME).write_text(snapshot.model_dump_json(indent=2) + "\n", encoding="utf-8")


def load_snapshot(directory: Path) -> TrainerSnapshot:
    """Read the small part of a downloaded checkpoint."""
    try:
        return TrainerSnapshot.model_validate_json((directory / STATE_NAME).read_text(encoding="utf-8"))
    except ValidationError as error:
        raise UserError(
            "The checkpoint to go on from was written by another release of the trainer. Set spec.image to that "
            "release's, or start a new run."
        ) from error


def restore_training(directory: Path, snapshot: TrainerSnapshot, live: LiveState) -> None:
    """Put parameters, moments, step counts, loss scaling and the schedule back. Every rank calls this."""
    with SavedState(directory) as saved:
        live.engine.state.load(saved)
    live.engine.set_loss_scale(snapshot.loss_scale)
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
    for group, rate in zip(live.engine.schedules.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = list(rates)
    if tuple(rates) != snapshot.group_learning_rates:
        logger.info(
            "the learning rate goes on at %g as this job's schedule has it; the checkpoint's run had %g here",
            rates[0],
            snapshot.group_learning_rates[0],
        )


# --- random numbers --------------------------------------------------------------------------------------------


def save_random_state(directory: Path, gang: Gang) -> None:
    """Write this rank's random number generators."""
    tensors = {"torch": torch.get_rng_state()}
    if gang.device.type == "cuda":
        tensors["cuda"] = torch.cuda.get_rng_state(gang.device)
    _, words, gauss = random.getstate()
    tensors["python"] = torch.tensor(words, dtype=torch.int64)
    assert gauss is None, "nothing in this program draws Gaussian numbers from the random module"
    _, numpy_words, position, *_ = cast(tuple[str, NumpyWords, int, int, float], np.random.get_state())
    tensors["numpy"] = torch.from_numpy(np.append(numpy_words.astype(np.int64), position))
    save_file(tensors, _random_state_path(directory, gang.rank), metadata=SAFETENSORS_METADATA)


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
    return directory / rank_file_name(RANDOM, rank)


def _plain_state(state: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    # Functions of the schedule are not state: they come from the job again.
    return {key: value for key, value in state.items() if key != "lr_lambdas"}
