"""Finds rows that nearly repeat an earlier one, over all splits: those that are validated or tested on come first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune_api.spec import Duplicates, Preparation
from finetune_trainer.data.rows import Split
from finetune_trainer.data.selection import NOTHING, Numbers
from finetune_trainer.data.spool import RowFacts, Spool


@dataclass(frozen=True)
class NearRepeats:
    """For each spooled row the earlier one it nearly repeats, or NOTHING; and how alike some of the pairs are."""

    repeats: Numbers
    similarity: dict[int, float]


def find_near_repeats(
    spool: Spool, facts: RowFacts, splits: Sequence[Split], preparation: Preparation, work: Path
) -> NearRepeats | None:
    """Look for near duplicates as the job says; None where it asks for none."""
    if preparation.duplicates not in (Duplicates.TFIDF, Duplicates.MIN_HASH):
        return None
    is_training = np.array([split is Split.TRAIN for split in splits])[facts.source]
    originals = facts.copy == 0
    # An earlier row stays and a later one goes, so what must stay is looked at first.
    rows = np.concatenate([np.flatnonzero(originals & ~is_training), np.flatnonzero(originals & is_training)])
    labels = [str(label) for label in facts.label[rows]]
    if preparation.duplicates is Duplicates.TFIDF:
        from finetune_trainer.data.similarity.tfidf import near_duplicates_tfidf

        found = near_duplicates_tfidf(
            _in_order(spool, rows), preparation.duplicate_threshold, labels=labels, directory=work
        )
    else:
        from finetune_trainer.data.similarity.minhash import as_signatures, near_duplicates_of_signatures

        signatures = as_signatures(_signatures(spool))[rows]
        found = near_duplicates_of_signatures(signatures, preparation.duplicate_threshold, labels=labels)
    repeats = np.full(len(facts), NOTHING, np.int64)
    is_repeat = found.repeats != NOTHING
    repeats[rows[is_repeat]] = rows[found.repeats[is_repeat]]
    return NearRepeats(repeats, {int(rows[pair.row]): pair.similarity for pair in found.pairs})


def _in_order(spool: Spool, rows: Numbers) -> Iterator[str]:
    """The texts of these rows; they are two runs of rising numbers, so two passes over the file."""
    turn = int(np.argmin(np.diff(rows, prepend=rows[:1])))
    for part in (rows[:turn], rows[turn:]):
        wanted = set(part.tolist())
        yield from (text for row, text in enumerate(spool.column("text")) if row in wanted)


def _signatures(spool: Spool) -> bytearray:
    """The signatures of all spooled rows, end to end."""
    content = bytearray()
    for batch in spool.batches():
        if batch.num_rows:
            content += batch.column("signature").buffers()[2]
    return content
