"""Candidates by bands of a signature: rows that agree in all values of a band are compared, others never.

datasketch's own index needs some kilobytes for each row; here rows are sorted by each band in turn, and only those
that share one are looked at, in their order, each with the earlier ones that stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from finetune_trainer.data.similarity.duplicates import Duplicates, Found, RowNumbers, duplicates_of, numbered
from finetune_trainer.data.similarity.ragged_file import Numbers

# (rows, values) of 16 bits each.
Signatures = np.ndarray[tuple[int, int], np.dtype[np.uint16]]
# A row and others → how similar each of them is to it.
Similarity = Callable[[int, Numbers], Numbers]
# (rows, bands): the group of rows with the same values in the band, or -1 where a row is alone.
Groups = np.ndarray[tuple[int, int], np.dtype[np.int32]]

# Of the pairs exactly at the threshold at most so many share no band.
_MOST_MISSED = 0.005
# A band that so many kept rows share tells nothing apart; those that come later are found by other bands or not at all.
_LARGEST_GROUP = 512
_ALONE = -1
_EQUAL = 1e-9


def bands_and_rows(threshold: float, values: int) -> tuple[int, int]:
    """How many bands of how many values: the longest ones that find nearly every pair at the threshold."""
    for length in range(values, 1, -1):
        if (1 - threshold**length) ** (values // length) <= _MOST_MISSED:
            return values // length, length
    return values, 1


def search_signatures(
    signatures: Signatures,
    threshold: float,
    similarity: Similarity,
    *,
    labels: Sequence[str] | None = None,
    references: int | None = None,
) -> Duplicates:
    """Find the rows that repeat an earlier row that stays.

    With `references` the first so many rows are what the others are compared with; they themselves are not judged, and
    the rows of the answer are counted from the first of the others.
    """
    groups = _groups(signatures, threshold)
    kinds = numbered(labels, len(signatures))
    members: dict[int, list[int]] = {}
    found: Found = {}
    for row in np.flatnonzero((groups != _ALONE).any(axis=1)).tolist():
        own = [group for group in groups[row].tolist() if group != _ALONE]
        if references is None or row >= references:
            earlier = sorted({each for group in own for each in members.get(group, ())})
            if nearest := _first_similar(row, np.array(earlier, np.int64), kinds, similarity, threshold):
                found[row - (references or 0)] = nearest
                continue
        if references is None or row < references:
            for group in own:
                _join(members.setdefault(group, []), row)
    return duplicates_of(found, len(signatures) - (references or 0))


def _first_similar(
    row: int, earlier: Numbers, kinds: RowNumbers, similarity: Similarity, threshold: float
) -> tuple[int, float] | None:
    earlier = earlier[kinds[earlier] == kinds[row]]
    if not len(earlier):
        return None
    similarities = similarity(row, earlier)
    similar = np.flatnonzero(similarities >= threshold - _EQUAL)
    return (int(earlier[similar[0]]), float(similarities[similar[0]])) if len(similar) else None


def _join(group: list[int], row: int) -> None:
    if len(group) < _LARGEST_GROUP:
        group.append(row)


def _groups(signatures: Signatures, threshold: float) -> Groups:
    rows, values = signatures.shape
    bands, length = bands_and_rows(threshold, values)
    groups = np.full((rows, bands), _ALONE, dtype=np.int32)
    # No hash at all: an empty text, which is similar to none.
    is_empty = (signatures == np.iinfo(np.uint16).max).all(axis=1)
    next_group = 0
    for band in range(bands):
        keys = _keys(signatures[:, band * length : (band + 1) * length])
        order = np.argsort(keys, kind="stable")
        is_new = np.ones(rows, dtype=np.bool_)
        is_new[1:] = keys[order][1:] != keys[order][:-1]
        number = np.cumsum(is_new) - 1
        is_shared = np.bincount(number)[number] > 1
        groups[order[is_shared], band] = number[is_shared] + next_group
        groups[is_empty, band] = _ALONE
        next_group += rows
    return groups


def _keys(values: Signatures) -> Numbers:
    """One number for the values of each row, as good as always another for other values."""
    keys = np.zeros(len(values), dtype=np.uint64)
    for column in values.T:
        keys = (keys ^ column) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(31)
    return keys
