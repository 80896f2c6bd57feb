"""Cross-entropy that turns the logits into their own gradient, in place: no second tensor of their size exists."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import FunctionCtx, once_differentiable


def consume_logits(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each position, fp32 [positions]. The logits are gone afterwards.

    Shapes: logits fp32 [positions, classes], targets int64 [positions]. Autograd raises a RuntimeError in the
    backward pass where whatever made the logits still needs them.
    """
    losses: torch.Tensor = _ConsumingCrossEntropy.apply(logits, targets)
    return losses


class _ConsumingCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 (torch types few of a context's attributes)
        logits: torch.Tensor,
        targets: torch.Tensor,
    ) -> torch.Tensor:
        places = targets[:, None]
        # softmax(x) - one_hot(target), step by step in the memory of x. The largest is taken out so that exp is finite.
        logits.sub_(logits.amax(dim=-1, keepdim=True))
        wanted = logits.gather(-1, places)
        total = logits.exp_().sum(dim=-1, keepdim=True)
        if ctx.needs_input_grad[0]:
            logits.div_(total).scatter_add_(-1, places, logits.new_full(places.shape, -1.0))
            ctx.save_for_backward(logits)
        return (total.log() - wanted).squeeze(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, loss_gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (gradient,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradient.mul_(loss_gradient[:, None]), None
