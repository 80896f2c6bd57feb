"""Finds rows that nearly repeat another: training rows a held-out one, and rows an earlier one of their own split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from finetune_api.spec import Duplicates, Leakage, Preparation
from finetune_trainer.data.rows import Split
from finetune_trainer.data.similarity import Duplicates as Found
from finetune_trainer.data.spool import RowFacts, Spool

NOTHING = -1
Numbers = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True)
class NearRepeats:
    """For each spooled row another one that it nearly repeats, or NOTHING; and how alike some of the pairs are."""

    # An earlier row of the same split, which stays.
    repeats: Numbers
    # Of training rows: a validation or test row.
    leaks: Numbers
    similarity: dict[int, float]
    leak_similarity: dict[int, float]


class _Search(Protocol):
    """One way to look for near duplicates among rows given by their numbers."""

    def duplicates(self, rows: Numbers) -> Found: ...

    def leakage(self, others: Numbers, training: Numbers) -> Found: ...


def find_near_repeats(
    spool: Spool, facts: RowFacts, splits: Sequence[Split], preparation: Preparation, work: Path
) -> NearRepeats | None:
    """Look for near duplicates as the job says; None where it asks for none."""
    if preparation.duplicates not in (Duplicates.TFIDF, Duplicates.MIN_HASH):
        return None
    search = _open_search(spool, facts, preparation, work)
    rows = {split: np.flatnonzero(_is_of(facts, splits, split) & (facts.copy == 0)) for split in Split}
    repeats, leaks = (np.full(len(facts), NOTHING, np.int64) for _ in range(2))
    similarity, leak_similarity = dict[int, float](), dict[int, float]()
    held_out = np.concatenate([rows[Split.VALIDATION], rows[Split.TEST]])
    if len(held_out):
        _note(
            search.leakage(held_out, rows[Split.TRAIN]), rows[Split.TRAIN], held_out, leaks, leak_similarity
        )
        if preparation.leakage is Leakage.DROP:
            # What leaves the training rows is no reason for another one to leave them.
            rows[Split.TRAIN] = rows[Split.TRAIN][leaks[rows[Split.TRAIN]] == NOTHING]
    for some in rows.values():
        _note(search.duplicates(some), some, some, repeats, similarity)
    return NearRepeats(repeats, leaks, similarity, leak_similarity)


def _is_of(
    facts: RowFacts, splits: Sequence[Split], split: Split
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.array([each is split for each in splits])[facts.source]


def _note(found: Found, rows: Numbers, others: Numbers, into: Numbers, similarity: dict[int, float]) -> None:
    """Write down what was found among `rows`, whose answers count within `others`."""
    repeated = np.flatnonzero(found.repeats != NOTHING)
    into[rows[repeated]] = others[found.repeats[repeated]]
    similarity.update({int(rows[pair.row]): pair.similarity for pair in found.pairs})


def _open_search(spool: Spool, facts: RowFacts, preparation: Preparation, work: Path) -> _Search:
    if preparation.duplicates is Duplicates.TFIDF:
        return _TfidfSearch(spool, facts, preparation.duplicate_threshold, work)
    return _SignatureSearch(spool, facts, preparation.duplicate_threshold)


@dataclass(frozen=True)
class _TfidfSearch:
    spool: Spool
    facts: RowFacts
    threshold: float
    work: Path

    def duplicates(self, rows: Numbers) -> Found:
        from finetune_trainer.data.similarity.tfidf import near_duplicates_tfidf

        labels = _labels(self.facts, rows)
        return near_duplicates_tfidf(self._texts(rows), self.threshold, labels=labels, directory=self.work)

    def leakage(self, others: Numbers, training: Numbers) -> Found:
        from finetune_trainer.data.similarity.tfidf import near_leakage_tfidf

        return near_leakage_tfidf(
            self._texts(others), self._texts(training), self.threshold, directory=self.work
        )

    def _texts(self, rows: Numbers) -> Iterator[str]:
        """The texts of rows, whose numbers rise but where one split follows another."""
        turns = np.flatnonzero(np.diff(rows) < 0) + 1
        for part in np.split(rows, turns):
            wanted = set(part.tolist())
            yield from (text for row, text in enumerate(self.spool.column("text")) if row in wanted)


class _SignatureSearch:
    def __init__(self, spool: Spool, facts: RowFacts, threshold: float) -> None:
        from finetune_trainer.data.similarity.minhash import as_signatures

        self._facts, self._threshold = facts, threshold
        self._signatures = as_signatures(_content(spool))

    def duplicates(self, rows: Numbers) -> Found:
        from finetune_trainer.data.similarity.minhash import near_duplicates_of_signatures

        labels = _labels(self._facts, rows)
        return near_duplicates_of_signatures(self._signatures[rows], self._threshold, labels=labels)

    def leakage(self, others: Numbers, training: Numbers) -> Found:
        from finetune_trainer.data.similarity.minhash import near_leakage_of_signatures

        return near_leakage_of_signatures(
            self._signatures[others], self._signatures[training], self._threshold
        )


def _labels(facts: RowFacts, rows: Numbers) -> list[str]:
    return [str(label) for label in facts.label[rows]]


def _content(spool: Spool) -> bytearray:
    """The signatures of all spooled rows, end to end."""
    content = bytearray()
    for batch in spool.batches():
        if batch.num_rows:
            content += batch.column("signature").buffers()[2]
    return content
