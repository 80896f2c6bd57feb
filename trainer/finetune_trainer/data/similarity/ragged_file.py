"""Rows of numbers of different lengths, on disk: what a search needs again of each row and must not hold in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

Numbers = np.ndarray[tuple[int], np.dtype[Any]]


class RaggedFile:
    """Append rows, then read any of them. Reading maps the file: the kernel may take its pages back at any time."""

    def __init__(self, path: Path, *types: type[np.generic]) -> None:
        self._types = types
        self._paths = [path.with_name(f"{path.name}.{number}") for number in range(len(types))]
        self._files = [each.open("ab") for each in self._paths]
        self._lengths: list[Numbers] = []
        self._starts: Numbers | None = None

    def append(self, lengths: Numbers, *columns: Numbers) -> None:
        """Add rows of these lengths; each column holds the numbers of all of them in a row."""
        for file, column, kind in zip(self._files, columns, self._types, strict=True):
            file.write(np.ascontiguousarray(column, dtype=kind).data)
        self._lengths.append(np.asarray(lengths, dtype=np.int64))
        self._starts = None

    @property
    def starts(self) -> Numbers:
        """Where each row begins; one more entry than rows."""
        if self._starts is None:
            self._lengths = [np.concatenate([np.zeros(0, np.int64), *self._lengths])]
            self._starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(self._lengths[0])])
        return self._starts

    def __len__(self) -> int:
        return sum(map(len, self._lengths))

    def between(self, first: int, last: int) -> tuple[Numbers, ...]:
        """Where rows first … last-1 begin, from 0 and with the end, and their columns, without copying."""
        starts = self.starts[first : last + 1]
        return (starts - starts[0], *self._columns(int(starts[0]), int(starts[-1])))

    def chosen(self, rows: Numbers | Sequence[int]) -> tuple[Numbers, ...]:
        """The same for any rows, in the order given; copies."""
        picked = np.asarray(rows, dtype=np.int64)
        begin, lengths = self.starts[picked], np.diff(self.starts)[picked]
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        places = np.arange(starts[-1]) + np.repeat(begin - starts[:-1], lengths)
        return (starts, *(column[places] for column in self._columns(0, int(self.starts[-1]))))

    def _columns(self, first: int, last: int) -> list[Numbers]:
        for file in self._files:
            file.flush()
        if first == last:
            return [np.zeros(0, kind) for kind in self._types]
        return [
            np.memmap(
                path, dtype=kind, mode="r", offset=first * np.dtype(kind).itemsize, shape=(last - first,)
            )
            for path, kind in zip(self._paths, self._types, strict=True)
        ]

    def close(self) -> None:
        """Close the files; whoever made the folder removes them."""
        for file in self._files:
            file.close()
