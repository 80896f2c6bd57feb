"""Trained state as safetensors: every rank brings its parts, rank 0 writes, one tensor after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import safe_open

from finetune_trainer.engines.engine import Moments, StateTensors
from finetune_trainer.tensor_files import TensorPlan, in_file_order, write_tensors

PARAMETERS_NAME = "parameters.safetensors"
OPTIMIZER_NAME = "optimizer.safetensors"
_SEPARATOR = "|"

Reader = Callable[[str], torch.Tensor]


def save_state(directory: Path, state: StateTensors, *, is_leader: bool) -> None:
    """Write parameters and moments by name. Every rank calls this, for the parts that it holds."""
    parameters = [TensorPlan(name, torch.float32, tuple(state.shape(name))) for name in state.names]
    write_together(directory / PARAMETERS_NAME, parameters, state.parameter, state, is_leader=is_leader)
    moments = [
        TensorPlan(f"{name}{_SEPARATOR}{key}", dtype, tuple(shape))
        for name in state.names
        for key, (dtype, shape) in state.moment_kinds(name).items()
    ]

    def read(full_name: str) -> torch.Tensor:
        name, _, key = full_name.rpartition(_SEPARATOR)
        return state.moment(name, key)

    write_together(directory / OPTIMIZER_NAME, moments, read, state, is_leader=is_leader)


def restore_parameters(directory: Path, state: StateTensors) -> None:
    """Put the parameters back in full precision: where the model computes in half of it, it was made from less."""
    with safe_open(directory / PARAMETERS_NAME, framework="pt") as saved:
        for name in state.names:
            state.set_parameter(name, saved.get_tensor(name))


def restore_moments(directory: Path, state: StateTensors) -> None:
    """Put the optimizer's moments back."""
    values: dict[str, Moments] = {name: {} for name in state.names}
    with safe_open(directory / OPTIMIZER_NAME, framework="pt") as saved:
        for full_name in saved.keys():  # noqa: SIM118 (no mapping)
            name, _, key = full_name.rpartition(_SEPARATOR)
            values[name][key] = saved.get_tensor(full_name)
    state.set_moments(values)


def write_together(
    path: Path, plans: Sequence[TensorPlan], read: Reader, state: StateTensors, *, is_leader: bool
) -> None:
    """Write one file on rank 0. Where reading brings parts together, all ranks read in the order of the file.

    Raises OSError where the disk fails, and only after everything was read: the other ranks wait in each reading.
    """
    if not is_leader:
        for plan in in_file_order(plans) if state.is_collective else ():
            read(plan.name)
        return
    unread = {plan.name: None for plan in in_file_order(plans)}

    def take(name: str) -> torch.Tensor:
        del unread[name]
        return read(name)

    try:
        write_tensors(path, list(plans), take)
    except OSError:
        for name in unread if state.is_collective else ():
            read(name)
        raise
