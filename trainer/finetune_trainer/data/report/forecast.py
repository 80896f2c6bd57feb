"""What the rows mean for one job: its steps, and how much of what is computed would be padding, packed and not."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from finetune_trainer.data.batches import DataOrder, split_step
from finetune_trainer.data.report.lengths import Lengths
from finetune_trainer.data.report.model import RunForecast

# Two hundred steps settle a share to a fraction of a per cent, in milliseconds.
_STEPS_LOOKED_AT = 200


def forecast_run(
    lengths: Lengths,
    order: DataOrder,
    *,
    total_steps: int,
    micro_batch_tokens: int | None,
    world_size: int = 1,
) -> RunForecast:
    """Forecast a run over training rows of these lengths.

    Unpacked: each step's rows are padded to the longest of them, as trainers do that have no packing. Packed: the
    rows of a step are laid end to end, and only a rank without a row of its own computes a token for nothing.
    """
    steps = [np.asarray(lengths)[order.rows_of_step(step)] for step in _steps_to_look_at(total_steps)]
    needed = sum(int(rows.sum()) for rows in steps)
    padded = sum(len(rows) * int(rows.max()) for rows in steps)
    idle = sum(_idle_tokens([int(each) for each in rows], world_size, micro_batch_tokens) for rows in steps)
    return RunForecast(
        global_batch_size=order.global_batch_size,
        micro_batch_tokens=micro_batch_tokens,
        steps_per_epoch=order.steps_per_epoch,
        total_steps=total_steps,
        epochs=round(total_steps / order.steps_per_epoch, 4),
        padded_share_unpacked=round(1 - needed / padded, 6),
        padded_share_packed=round(idle / (needed + idle), 6),
    )


def _steps_to_look_at(total_steps: int) -> Iterator[int]:
    # Spread over the run, so that every epoch's order is seen.
    count = min(total_steps, _STEPS_LOOKED_AT)
    return (number * total_steps // count for number in range(count))


def _idle_tokens(lengths: list[int], world_size: int, micro_batch_tokens: int | None) -> int:
    bound = micro_batch_tokens or max(sum(lengths), 1)
    shares = split_step(lengths, world_size, bound)
    return sum(not micro_batch for share in shares for micro_batch in share)
