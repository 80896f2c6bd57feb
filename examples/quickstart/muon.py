"""The Muon optimizer in single precision: momentum whose matrices are made orthogonal before each step.

Keller Jordan, "Muon: an optimizer for hidden layers in neural networks" (2024). `torch.optim.Muon` works in bfloat16,
which is tens of times slower on processors without bfloat16 units; the base model must be quick to make on any of them.
"""

from collections.abc import Callable, Iterable

import torch

# The quintic of the paper: it brings every singular value close to one within five rounds.
QUINTIC = (3.4445, -4.7750, 2.0315)
ROUNDS = 5


class Muon(torch.optim.Optimizer):
    """Optimize matrices only; embeddings and vectors need another optimizer."""

    def __init__(
        self,
        matrices: Iterable[torch.nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Step every matrix that has a gradient; a closure is not supported."""
        if closure is not None:
            raise ValueError("Muon takes no closure. Compute the gradients before step().")
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    update = orthogonal(self.nesterov_momentum(matrix, group["momentum"]))
                    matrix.mul_(1 - group["lr"] * group["weight_decay"])
                    rows, columns = matrix.shape
                    matrix.add_(update, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)

    def nesterov_momentum(self, matrix: torch.nn.Parameter, momentum: float) -> torch.Tensor:
        """Move the running mean of the gradient on and return it one step ahead."""
        assert matrix.grad is not None
        state = self.state[matrix]
        if not state:
            state["mean"] = torch.zeros_like(matrix)
        mean: torch.Tensor = state["mean"]
        mean.lerp_(matrix.grad, 1 - momentum)
        return matrix.grad.lerp(mean, momentum)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Return the nearest matrix whose singular values are about one (0.7 to 1.2), by Newton-Schulz iteration."""
    a, b, c = QUINTIC
    tall = matrix.shape[0] > matrix.shape[1]
    x: torch.Tensor = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(ROUNDS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x
