"""Decides how many tokens one process computes at once: chosen, then halved after each time the memory was used up.

Halving changes memory and speed, never the result: a step's rows are only cut into more micro-batches. Torch-free.
"""

from __future__ import annotations

from dataclasses import dataclass

from finetune_api.spec import Training

# Enough to keep the device busy, little enough for the activations of a 7B model on a 40 GB GPU.
_DEFAULT_TOKENS = {"cuda": 4096, "cpu": 2048}


@dataclass(frozen=True)
class MicroBatchBound:
    """The bound, and how it came about."""

    tokens: int
    wanted_tokens: int
    halvings: int

    def describe(self) -> str:
        """The bound in words."""
        if self.halvings == 0:
            return f"micro-batches of up to {self.tokens} tokens"
        times = "once" if self.halvings == 1 else f"{self.halvings} times"
        return f"micro-batches of up to {self.tokens} tokens ({self.wanted_tokens} halved {times})"


def decide_micro_batch_bound(training: Training, device_type: str, memory_backoff: int) -> MicroBatchBound:
    """Decide the bound. A row that is longer is a micro-batch of its own."""
    wanted = training.micro_batch_tokens or _DEFAULT_TOKENS[device_type]
    return MicroBatchBound(max(1, wanted >> memory_backoff), wanted, memory_backoff)
