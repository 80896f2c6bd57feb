"""Near duplicates by MinHash signatures and locality-sensitive hashing, for millions of rows.

A worker makes a signature of 256 bytes for each row; nothing else of a row is needed to find its near duplicates. The
similarity is the Jaccard index of the rows' sets of character 4-grams. From signatures alone it is an estimate with
a standard deviation of 0.027 at a similarity of 0.9 (0.044 at 0.5); where the texts are at hand it is exact.

Rows with much in common that is not theirs (a template with a few words exchanged) are alike to MinHash. TF-IDF
(tfidf.py), which gives little weight to what all rows share, tells them apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from datasketch import MinHash

from finetune_trainer.data.similarity.duplicates import Duplicates
from finetune_trainer.data.similarity.lsh import Signatures, Similarity, search_signatures
from finetune_trainer.data.similarity.ragged_file import Numbers, RaggedFile

PERMUTATIONS = 128
SIGNATURE_BYTES = 2 * PERMUTATIONS
SHINGLE_CHARACTERS = 4
# Sixteen bits of each minimum are enough to tell two of them apart (Li, König 2010, doi:10.1145/1772690.1772759).
_VALUE = np.dtype("<u2")
_SHINGLES_AT_ONCE = 16_384
_ODD_NUMBERS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93)


def minhash_signature(text: str) -> bytes:
    """256 bytes: the smallest hashes of the text's 4-grams under 128 permutations, 16 bits of each, little-endian."""
    return _signature(shingle_hashes(text))


def as_signatures(content: bytes | bytearray | Sequence[bytes]) -> Signatures:
    """Signatures, one by one or all in a row, as a matrix of (rows, 128)."""
    flat = content if isinstance(content, (bytes, bytearray)) else b"".join(content)
    return np.frombuffer(flat, dtype=_VALUE).reshape(-1, PERMUTATIONS)


def near_duplicates_of_signatures(
    signatures: Signatures, threshold: float, *, labels: Sequence[str] | None = None
) -> Duplicates:
    """Find the rows whose estimated similarity with an earlier row that stays is at least `threshold`.

    With `labels` only rows of the same label are compared: a small change that changes the label is what a classifier
    must learn. Memory beside the signatures: 4 bytes for each row and band (14 bands at a threshold of 0.9, 42 at
    0.5), and some hundred bytes for each row that shares a band with another.
    """
    return search_signatures(signatures, threshold, _estimated(signatures), labels=labels)


def near_leakage_of_signatures(others: Signatures, training: Signatures, threshold: float) -> Duplicates:
    """Find the training rows that nearly repeat a row of `others`; `repeats` counts the rows of `others`."""
    signatures = np.concatenate([others, training])
    return search_signatures(signatures, threshold, _estimated(signatures), references=len(others))


def near_duplicates_minhash(
    texts: Iterable[str],
    threshold: float,
    *,
    labels: Sequence[str] | None = None,
    directory: Path | None = None,
) -> Duplicates:
    """The same with the texts at hand: candidates by their signatures, the similarity exact.

    Temporary files, at most 4 bytes for each character, are made in `directory`.
    """
    with TemporaryDirectory(prefix="minhash-", dir=directory) as folder:
        shingles = RaggedFile(Path(folder) / "shingles", np.uint32)
        content = bytearray()
        for text in texts:
            hashes = shingle_hashes(text)
            shingles.append(np.array([len(hashes)]), hashes)
            content += _signature(hashes)
        signatures = as_signatures(content)
        similarity = _exact(shingles, _estimated(signatures), threshold)
        return search_signatures(signatures, threshold, similarity, labels=labels)


def shingle_hashes(text: str) -> Numbers:
    """The set of the text's 4-grams as sorted 32-bit hashes; letters' case and runs of white space do not count.

    A shorter text is one shingle, an empty one none.
    """
    folded = " ".join(text.lower().split())
    codes = np.frombuffer(folded.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    if 0 < len(codes) < SHINGLE_CHARACTERS:
        codes = np.pad(codes, (0, SHINGLE_CHARACTERS - len(codes)))
    count = max(0, len(codes) - SHINGLE_CHARACTERS + 1)
    mixed = np.zeros(count, dtype=np.uint64)
    for place, odd in enumerate(_ODD_NUMBERS):
        mixed += codes[place : place + count] * np.uint64(odd)
        mixed ^= mixed >> np.uint64(29)
    return np.unique((mixed * np.uint64(_ODD_NUMBERS[0])) >> np.uint64(32)).astype(np.uint32)


@lru_cache(maxsize=1)
def _blank() -> MinHash:
    # `int`: the hashes are made already, all of a row at once.
    return MinHash(num_perm=PERMUTATIONS, seed=1, hashfunc=int)


def _signature(hashes: Numbers) -> bytes:
    sketch = _blank().copy()
    for first in range(0, len(hashes), _SHINGLES_AT_ONCE):
        sketch.update_batch(hashes[first : first + _SHINGLES_AT_ONCE].tolist())
    return bytes((sketch.hashvalues & 0xFFFF).astype(_VALUE).tobytes())


def _estimated(signatures: Signatures) -> Similarity:
    def similarity(row: int, others: Numbers) -> Numbers:
        shares: Numbers = (signatures[others] == signatures[row]).mean(axis=1)
        return shares

    return similarity


def _exact(shingles: RaggedFile, estimated: Similarity, threshold: float) -> Similarity:
    # An estimate that is five standard deviations too low is not worth an exact comparison.
    margin = 5 * math.sqrt(threshold * (1 - threshold) / PERMUTATIONS)

    def similarity(row: int, others: Numbers) -> Numbers:
        similarities = estimated(row, others)
        for place in np.flatnonzero(similarities >= threshold - margin):
            starts, hashes = shingles.chosen([row, int(others[place])])
            similarities[place] = _jaccard(hashes[: starts[1]], hashes[starts[1] :])
        return similarities

    return similarity


def _jaccard(left: Numbers, right: Numbers) -> float:
    common = len(np.intersect1d(left, right, assume_unique=True))
    return common / max(1, len(left) + len(right) - common)
