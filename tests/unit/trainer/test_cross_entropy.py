"""Cross-entropy in the memory of its logits: torch's own values and gradients, and no second tensor."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from finetune_trainer.cross_entropy import consume_logits


def draw(positions: int, classes: int, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(positions * classes)
    logits = torch.randn(positions, classes, generator=generator) * scale
    return logits, torch.randint(0, classes, (positions,), generator=generator)


@pytest.mark.parametrize("scale", [1.0, 100.0, 1e4], ids=["small", "large", "exp would overflow"])
@pytest.mark.parametrize(("positions", "classes"), [(1, 1), (3, 7), (130, 1000), (0, 5)])
def test_losses_and_gradients_are_torchs(positions: int, classes: int, scale: float) -> None:
    logits, targets = draw(positions, classes, scale)
    weights = torch.linspace(0.5, 2.0, positions)
    reference = logits.clone().requires_grad_()
    wanted = cross_entropy(reference, targets, reduction="none")
    torch.autograd.backward((wanted * weights).sum())

    leaf = logits.clone().requires_grad_()
    losses = consume_logits(leaf * 1.0, targets)
    torch.autograd.backward((losses * weights).sum())

    torch.testing.assert_close(losses, wanted, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(leaf.grad, reference.grad, rtol=1e-5, atol=1e-6)


def test_the_logits_memory_holds_the_gradient() -> None:
    logits, targets = draw(4, 9)
    leaf = logits.requires_grad_()
    made = leaf * 1.0
    seen: list[int] = []
    made.register_hook(lambda gradient: seen.append(gradient.data_ptr()))  # type: ignore[no-untyped-call]
    torch.autograd.backward(consume_logits(made, targets).sum())
    assert seen == [made.data_ptr()]


def test_without_gradients_only_losses_are_computed() -> None:
    logits, targets = draw(4, 9)
    wanted = cross_entropy(logits, targets, reduction="none")
    with torch.no_grad():
        losses = consume_logits(logits.clone(), targets)
    torch.testing.assert_close(losses, wanted)
    assert not losses.requires_grad


def test_a_head_that_still_needs_its_logits_is_told() -> None:
    """A wrong gradient would be the other end of it."""
    logits, targets = draw(4, 9)
    losses = consume_logits(logits.requires_grad_().exp(), targets)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.backward(losses.sum())


def test_gradient_is_taken_once() -> None:
    logits, targets = draw(4, 9)
    losses = consume_logits(logits.requires_grad_() * 1.0, targets)
    torch.autograd.backward(losses.sum(), retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.backward(losses.sum())
