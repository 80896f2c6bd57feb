"""What goes together: the cells of the support matrix, every method with every strategy, number format and switch.

`axes` says what a cell is, `refusals` which do not go together, `nearest` what to take instead. Tests hold the API
server's rules, the trainer and the documentation against it. Pure, torch-free.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product

from tests.matrix.axes import OPTIMIZERS, PRECISIONS, VARIANTS, WAYS, Combination
from tests.matrix.refusals import is_supported

# The head is new, and whole: that matters where something is split up, not how.
CLASSIFIER_WAYS = ("one process", "ZeRO2", "FSDP")


def matrix() -> list[Combination]:
    """Method × strategy × number format."""
    return [Combination(*values) for values in product(VARIANTS, WAYS, PRECISIONS)]


def classifiers() -> list[Combination]:
    """Every method for classification, alone and with a strategy that splits what it may split."""
    return [
        Combination(method, way, task="SequenceClassification")
        for method, way in product(VARIANTS, CLASSIFIER_WAYS)
    ]


def optimizers() -> list[Combination]:
    """Every optimizer with every strategy."""
    return [Combination(way=way, optimizer=optimizer) for optimizer, way in product(OPTIMIZERS, WAYS)]


def switches() -> list[Combination]:
    """Every method with activations computed twice, and with rows packed or not."""
    return [
        *(Combination(method, checkpointing="Enabled") for method in VARIANTS),
        *(
            Combination(method, packing=packing)
            for method, packing in product(VARIANTS, ("Enabled", "Disabled"))
        ),
        Combination(task="SequenceClassification", packing="Enabled"),
    ]


def on_cpus() -> list[Combination]:
    """What CPU pods are asked for."""
    return [
        *(Combination(precision=precision, device="CPU") for precision in PRECISIONS),
        *(Combination(optimizer=optimizer, device="CPU") for optimizer in OPTIMIZERS),
    ]


BLOCKS: Mapping[str, Callable[[], list[Combination]]] = {
    "methods, strategies and number formats": matrix,
    "classification": classifiers,
    "optimizers": optimizers,
    "switches": switches,
    "CPU pods": on_cpus,
}


def all_cells() -> list[Combination]:
    """The whole table, each cell once."""
    return list(dict.fromkeys(cell for block in BLOCKS.values() for cell in block()))


def trainable_here() -> list[Combination]:
    """The supported cells that a machine without GPUs can train; what CPU pods are asked for is among them."""
    return [
        cell
        for cell in all_cells()
        if is_supported(cell) and cell.device == "GPU" and cell.optimizer != "PagedAdamW8bit"
    ]
