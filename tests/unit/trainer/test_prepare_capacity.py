"""Kubernetes quantities in bytes."""

from __future__ import annotations

import pytest

from finetune_trainer.capacity import bytes_of


@pytest.mark.parametrize(
    ("quantity", "expected"),
    [
        ("20Gi", 20 * 1024**3),
        ("1.5G", 1_500_000_000),
        ("512Mi", 512 * 1024**2),
        ("10k", 10_000),
        ("7", 7),
        ("500m", 0),
    ],
)
def test_quantities_are_read_as_kubernetes_does(quantity: str, expected: int) -> None:
    assert bytes_of(quantity) == expected
