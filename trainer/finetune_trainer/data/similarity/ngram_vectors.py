"""TF-IDF vectors of character n-grams, block by block: counted once into a file, weighed when all rows are counted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import HashingVectorizer

from finetune_trainer.data.similarity.duplicates import RowMask, RowNumbers
from finetune_trainer.data.similarity.ragged_file import Numbers, RaggedFile

SHORTEST_NGRAM, LONGEST_NGRAM = 3, 5
# What comes after so many characters of a text is not compared.
COMPARED_CHARACTERS = 32_768
_FEATURES = 2**20
# What is held in memory at once: of the texts, and of the vectors.
_READ_ROWS, _READ_CHARACTERS = 1_000, 1_000_000
_BLOCK_ROWS, _BLOCK_NGRAMS = 1_024, 2_000_000

# scipy.sparse has no types.
Sparse = Any


@dataclass(frozen=True)
class Block:
    """Some rows as unit vectors with the rarest n-grams first: whole, their prefixes, and the length of the rest."""

    rows: RowNumbers
    vectors: Sparse
    prefixes: Sparse
    rest: Numbers

    def part(self, chosen: RowMask) -> Block:
        """Some of the rows."""
        if chosen.all():
            return self
        return Block(self.rows[chosen], self.vectors[chosen], self.prefixes[chosen], self.rest[chosen])


class CountedRows:
    """The n-grams of every row, on disk, and how many rows have each n-gram."""

    def __init__(self, folder: Path) -> None:
        self.counts = RaggedFile(folder / "counts", np.int32, np.uint16)
        self.row_counts: Numbers = np.zeros(_FEATURES, dtype=np.int64)
        self._vectorizer = HashingVectorizer(
            analyzer="char",
            ngram_range=(SHORTEST_NGRAM, LONGEST_NGRAM),
            n_features=_FEATURES,
            alternate_sign=False,
            norm=None,
            dtype=np.float32,
        )

    def __len__(self) -> int:
        return len(self.counts)

    def add(self, texts: Iterable[str]) -> None:
        """Count the n-grams of more rows."""
        for batch in _batches(texts):
            found = self._vectorizer.transform(batch)
            self.counts.append(np.diff(found.indptr), found.indices, np.minimum(found.data, 65_535))
            self.row_counts += np.bincount(found.indices, minlength=_FEATURES)

    def blocks(self, rest_length: float, edge: int = 0) -> Iterator[Block]:
        """All rows in their order. A prefix is as long as the rest must be for a length below `rest_length`.

        No block has rows from both sides of row `edge`.
        """
        weigh = _Weights.of(self)
        for first, last in self._block_edges(edge):
            starts, ngrams, counts = self.counts.between(first, last)
            yield weigh.block(np.arange(first, last), starts, ngrams, counts, rest_length)

    def _block_edges(self, edge: int) -> Iterator[tuple[int, int]]:
        starts, rows, first = self.counts.starts, len(self.counts), 0
        while first < rows:
            fitting = int(np.searchsorted(starts, starts[first] + _BLOCK_NGRAMS, side="right")) - 1
            last = min(max(fitting, first + 1), first + _BLOCK_ROWS, rows)
            if first < edge < last:
                last = edge
            yield first, last
            first = last


@dataclass(frozen=True)
class _Weights:
    """What an n-gram weighs, and its place in the order from the rarest to the most common."""

    idf: Numbers
    ranks: Numbers
    first_shared: int

    @classmethod
    def of(cls, counted: CountedRows) -> _Weights:
        ranks = np.empty(_FEATURES, dtype=np.int32)
        ranks[np.argsort(counted.row_counts, kind="stable")] = np.arange(_FEATURES, dtype=np.int32)
        # As scikit-learn's TfidfTransformer smooths it.
        idf = np.log((1 + len(counted.counts)) / (1 + counted.row_counts)) + 1
        return cls(idf.astype(np.float32), ranks, int(np.count_nonzero(counted.row_counts < 2)))

    def block(
        self, rows: RowNumbers, starts: Numbers, ngrams: Numbers, counts: Numbers, rest_length: float
    ) -> Block:
        weights = (1 + np.log(counts, dtype=np.float32)) * self.idf[ngrams]
        vectors = rows_matrix(starts, self.ranks[ngrams], weights)
        vectors.sort_indices()
        row_of = np.repeat(np.arange(len(rows)), np.diff(starts))
        squares = vectors.data.astype(np.float64) ** 2
        lengths = np.sqrt(np.bincount(row_of, squares, len(rows)))
        vectors.data /= lengths[row_of].astype(np.float32)
        rest = _lengths_from_here(squares / (lengths**2)[row_of], starts)
        is_prefix = rest >= rest_length
        behind = np.zeros(len(rows))
        np.maximum.at(behind, row_of[~is_prefix], rest[~is_prefix])
        # An n-gram of one row only finds nobody.
        is_prefix &= vectors.indices >= self.first_shared
        prefix_starts = _starts_of(np.bincount(row_of[is_prefix], minlength=len(rows)))
        prefixes = rows_matrix(prefix_starts, vectors.indices[is_prefix], vectors.data[is_prefix])
        return Block(rows, vectors, prefixes, behind)


def rows_matrix(starts: Numbers, places: Numbers, weights: Numbers) -> Sparse:
    """Rows as a sparse matrix; nothing is copied but where rows begin."""
    shape = (len(starts) - 1, _FEATURES)
    return sparse.csr_matrix((weights, places, starts.astype(np.int32)), shape=shape, copy=False)


def _starts_of(lengths: Numbers) -> Numbers:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])


def _lengths_from_here(squares: Numbers, starts: Numbers) -> Numbers:
    """For every entry the length of its row's vector from this entry to the row's end."""
    before = _starts_of(squares)
    total = np.repeat(before[starts[1:]], np.diff(starts))
    lengths: Numbers = np.sqrt(np.maximum(total - before[:-1], 0))
    return lengths


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for text in texts:
        batch.append(text[:COMPARED_CHARACTERS])
        characters += len(batch[-1])
        if len(batch) >= _READ_ROWS or characters >= _READ_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
