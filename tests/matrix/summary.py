"""What the last run of every cell saw, in summary.json: a cell that did not pass is not in it. Read by the documentation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from tests.matrix.axes import Combination
from tests.matrix.table import trainable_here

PATH = Path(__file__).parent / "summary.json"
_LIBRARIES = ("torch", "transformers", "peft", "accelerate", "deepspeed", "bitsandbytes")
# Digits of what is shown; more would differ from machine to machine.
_LOSS_DIGITS, _SECONDS_DIGITS = 4, 1


@dataclass(frozen=True)
class Trained:
    """A cell that was trained: the loss of the first and the last step, and how long the whole took."""

    method: str
    cell: str
    first_loss: float
    last_loss: float
    seconds: float

    @property
    def fall(self) -> float:
        """The share of the first loss that is gone at the end."""
        return 1 - self.last_loss / self.first_loss


@dataclass(frozen=True)
class Summary:
    """All cells, in the order of the table, and what they were trained with."""

    libraries: dict[str, str]
    cells: tuple[Trained, ...]


def note(cell: Combination, losses: Sequence[float], seconds: float) -> Trained:
    """A cell as the summary keeps it."""
    return Trained(
        cell.method,
        cell.name,
        round(losses[0], _LOSS_DIGITS),
        round(losses[-1], _LOSS_DIGITS),
        round(seconds, _SECONDS_DIGITS),
    )


def save_summary(cells: Sequence[Trained]) -> None:
    """Write the summary, a line a cell."""
    libraries = json.dumps({name: version(name) for name in _LIBRARIES})
    lines = ",\n    ".join(json.dumps(asdict(cell), ensure_ascii=False) for cell in cells)
    PATH.write_text(
        f'{{\n  "libraries": {libraries},\n  "cells": [\n    {lines}\n  ]\n}}\n', encoding="utf-8"
    )


def load_summary() -> Summary:
    """Read it."""
    content = json.loads(PATH.read_text(encoding="utf-8"))
    return Summary(content["libraries"], tuple(Trained(**cell) for cell in content["cells"]))


def load_cells() -> tuple[Trained, ...]:
    """The cells of earlier runs; none before the first."""
    return load_summary().cells if PATH.exists() else ()


def update(earlier: Sequence[Trained], seen: Combination, trained: Trained | None) -> list[Trained]:
    """Put what was seen of a cell in the place of what was there, in the order of the table; None: it is gone."""
    found = {cell.cell: cell for cell in earlier}
    if trained is not None:
        found[seen.name] = trained
    else:
        found.pop(seen.name, None)
    return [found[cell.name] for cell in trainable_here() if cell.name in found]
