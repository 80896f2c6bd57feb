"""Near duplicates by the cosine of TF-IDF vectors of character n-grams, which need no words and so work in Chinese.

Exact for every threshold, in bounded memory: vectors stand on disk, and only pairs that can reach the threshold are
compared in full. Those are found by prefix filtering (Bayardo, Ma, Srikant 2007, doi:10.1145/1242572.1242591): with
the n-grams of a row ordered from the rarest to the most common, two rows cannot be similar unless they share enough
of the first ones. A row that repeats another is compared with nothing further, so many copies of one row cost little.

Time grows faster than the number of rows, and with lower thresholds: this is for up to some 100,000 rows; MinHash
(minhash.py) is for more. The disk holds up to 20 bytes for each n-gram of a row, some 60 bytes a character.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from finetune_trainer.data.similarity.duplicates import Duplicates, Found, RowNumbers, duplicates_of, numbered
from finetune_trainer.data.similarity.ngram_vectors import Block, CountedRows, Sparse, rows_matrix
from finetune_trainer.data.similarity.ragged_file import Numbers, RaggedFile

# Prefixes of a pair must have at least so much of the cosine in common. More makes prefixes longer to search, less
# leaves more pairs to compare in full; measured on short rows, from templates too, at thresholds from 0.5 to 0.9.
_COMMON_COSINE = 0.12
# float32 vectors: a pair at the threshold itself must not be lost to rounding.
_SLACK = 1e-5
# Kept rows that a block is compared with at once, and n-grams of pairs that are compared in full at once.
_CHUNK_ROWS, _COMPARED_NGRAMS = 4_096, 2_000_000


def near_duplicates_tfidf(
    texts: Iterable[str],
    threshold: float,
    *,
    labels: Sequence[str] | None = None,
    directory: Path | None = None,
) -> Duplicates:
    """Find the rows whose cosine with an earlier row that stays is at least `threshold`.

    With `labels` only rows of the same label are compared: a small change that changes the label is what a classifier
    must learn. Temporary files are made in `directory`. A text of fewer than 3 characters is similar to none.
    """
    with TemporaryDirectory(prefix="tfidf-", dir=directory) as folder:
        counted = CountedRows(Path(folder))
        counted.add(texts)
        kept = _KeptRows(Path(folder), threshold, numbered(labels, len(counted)))
        found: Found = {}
        for block in counted.blocks(_rest_length(threshold)):
            found |= kept.nearest(block)
            candidates = _without(block, found)
            found |= kept.repeated_within(candidates)
            kept.add(_without(candidates, found))
        return duplicates_of(found, len(counted))


def near_leakage_tfidf(
    others: Iterable[str], training: Iterable[str], threshold: float, *, directory: Path | None = None
) -> Duplicates:
    """Find the training rows that nearly repeat a row of `others`; `repeats` counts the rows of `others`."""
    with TemporaryDirectory(prefix="tfidf-", dir=directory) as folder:
        counted = CountedRows(Path(folder))
        counted.add(others)
        other_rows = len(counted)
        counted.add(training)
        kept = _KeptRows(Path(folder), threshold, numbered(None, len(counted)))
        found: Found = {}
        for block in counted.blocks(_rest_length(threshold), edge=other_rows):
            if block.rows[0] < other_rows:
                kept.add(block)
            else:
                found |= kept.nearest(block)
        training_rows = {row - other_rows: pair for row, pair in found.items()}
        return duplicates_of(training_rows, len(counted) - other_rows)


def _rest_length(threshold: float) -> float:
    return max(threshold - _COMMON_COSINE, threshold / 2)


def _without(block: Block, found: Found) -> Block:
    return block.part(np.array([int(row) not in found for row in block.rows], dtype=np.bool_))


class _KeptRows:
    """The rows that later ones are compared with: their numbers in memory, their vectors on disk."""

    def __init__(self, folder: Path, threshold: float, labels: RowNumbers) -> None:
        self._threshold = threshold
        self._labels = labels
        self._vectors = RaggedFile(folder / "vectors", np.int32, np.float32)
        self._prefixes = RaggedFile(folder / "prefixes", np.int32, np.float32)
        self._rows: RowNumbers = np.zeros(0, dtype=np.int64)
        self._rest: Numbers = np.zeros(0)

    def add(self, block: Block) -> None:
        """Keep all rows of a block."""
        for file, matrix in ((self._vectors, block.vectors), (self._prefixes, block.prefixes)):
            file.append(np.diff(matrix.indptr), matrix.indices, matrix.data)
        self._rows = np.concatenate([self._rows, block.rows])
        self._rest = np.concatenate([self._rest, block.rest])

    def nearest(self, block: Block) -> Found:
        """For each row of the block that repeats kept ones, the first of these."""
        found: Found = {}
        by_ngram = block.prefixes.T.tocsr()
        for first in range(0, len(self._rows), _CHUNK_ROWS):
            last = min(first + _CHUNK_ROWS, len(self._rows))
            shared = rows_matrix(*self._prefixes.between(first, last)) @ by_ngram
            kept, ours = self._possible(shared, self._rest[first:last], block.rest)
            kept = kept + first
            cosines = self._cosines_with_kept(kept, block, ours)
            for row, repeated, cosine in self._similar(block.rows[ours], self._rows[kept], cosines):
                found.setdefault(row, (repeated, cosine))
        return found

    def repeated_within(self, block: Block) -> Found:
        """For each row of the block that repeats an earlier one of it that repeats none, the first of these."""
        earlier, later = self._possible(block.prefixes @ block.prefixes.T, block.rest, block.rest)
        in_order = earlier < later
        earlier, later = earlier[in_order], later[in_order]
        cosines = np.zeros(len(later))
        for part in _parts(block, later):
            cosines[part] = _dots(block.vectors[earlier[part]], block.vectors[later[part]])
        found: Found = {}
        for row, repeated, cosine in self._similar(block.rows[later], block.rows[earlier], cosines):
            if repeated not in found:
                found.setdefault(row, (repeated, cosine))
        return found

    def _possible(self, shared: Sparse, rest: Numbers, other_rest: Numbers) -> tuple[Numbers, Numbers]:
        """The pairs (row, column) of prefixes with so much in common that the whole vectors can reach the threshold."""
        pairs = shared.tocoo()
        # Behind the prefix that ends first, the vectors' product is at most the length of what follows there.
        most = pairs.data + np.maximum(rest[pairs.row], other_rest[pairs.col])
        chosen = most >= self._threshold - _SLACK
        return pairs.row[chosen], pairs.col[chosen]

    def _cosines_with_kept(self, kept: Numbers, block: Block, ours: Numbers) -> Numbers:
        cosines = np.zeros(len(ours))
        for part in _parts(block, ours):
            vectors = rows_matrix(*self._vectors.chosen(kept[part]))
            cosines[part] = _dots(vectors, block.vectors[ours[part]])
        return cosines

    def _similar(
        self, rows: RowNumbers, repeated: RowNumbers, cosines: Numbers
    ) -> Iterator[tuple[int, int, float]]:
        """The pairs that reach the threshold and have one label, by row and then by the row that is repeated."""
        chosen = (cosines >= self._threshold - _SLACK) & (self._labels[rows] == self._labels[repeated])
        rows, repeated, cosines = rows[chosen], repeated[chosen], cosines[chosen]
        for place in np.lexsort((repeated, rows)):
            yield int(rows[place]), int(repeated[place]), min(1.0, float(cosines[place]))


def _parts(block: Block, rows: Numbers) -> Iterator[slice]:
    """Cut pairs, given by their rows of the block, into parts of a bounded size; the other row is about as long."""
    ngrams = np.cumsum(np.diff(block.vectors.indptr)[rows])
    first = 0
    while first < len(rows):
        done = ngrams[first - 1] if first else 0
        last = max(int(np.searchsorted(ngrams, done + _COMPARED_NGRAMS, side="right")), first + 1)
        yield slice(first, last)
        first = last


def _dots(left: Sparse, right: Sparse) -> Numbers:
    products: Numbers = np.asarray(left.multiply(right).sum(axis=1)).ravel()
    return products
