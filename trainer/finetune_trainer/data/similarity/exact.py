"""Rows that say exactly the same, apart from white space: within the training data, and across the splits.

All that is held of a row is a key of 16 bytes. Letters' case counts: `US` and `us` are different words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from finetune_trainer.data.rows import Continuation, Conversation, Example, LabelledText, texts_of
from finetune_trainer.data.similarity.duplicates import PAIRS_SHOWN, Duplicates, RowNumbers, duplicates_of
from finetune_trainer.data.similarity.words import comparable_text

KEY_BYTES = 16

Keys = Sequence[bytes] | np.ndarray[tuple[int, int], np.dtype[np.uint8]]


@dataclass(frozen=True, slots=True)
class Contradictions:
    """Rows that have the text of an earlier row and another label. Nobody can say which one is right."""

    count: int
    # Row and earlier row, the first 20.
    pairs: tuple[tuple[int, int], ...]


def exact_key(example: Example) -> bytes:
    """16 bytes that are the same for examples with the same texts by the same speakers, and the same label.

    Runs of white space count as one space. So a text with two labels gives two keys: it is no duplicate but a
    contradiction (find_contradictions), and leaving one of the two out would hide that.
    """
    return _digest(_parts(example))


def text_key(example: Example) -> bytes:
    """16 bytes of what a label is given to, without the label."""
    return _digest([comparable_text(example)])


def exact_duplicates(keys: Keys) -> Duplicates:
    """Which rows have the key of an earlier row. `keys`: exact_key of each row, or the same as bytes (rows, 16)."""
    repeats = _first_of_each(_as_numbers(keys))
    rows = np.flatnonzero(repeats != np.arange(len(repeats)))
    return duplicates_of({int(row): (int(repeats[row]), 1.0) for row in rows}, len(repeats))


def find_leakage(train_keys: Keys, other_keys: Keys) -> RowNumbers:
    """For each training row the first row of the other split with the same key, or -1."""
    train, others = _as_numbers(train_keys), _as_numbers(other_keys)
    first = _first_of_each(np.concatenate([others, train]))[len(others) :]
    return np.where(first < len(others), first, -1)


def find_contradictions(text_keys: Keys, labels: Sequence[str]) -> Contradictions:
    """Which rows have the text of an earlier row, and another label than the first row with that text."""
    first = _first_of_each(_as_numbers(text_keys)).tolist()
    pairs = [(row, earlier) for row, earlier in enumerate(first) if labels[row] != labels[earlier]]
    return Contradictions(len(pairs), tuple(pairs[:PAIRS_SHOWN]))


def _first_of_each(keys: np.ndarray[tuple[int, int], np.dtype[np.uint64]]) -> RowNumbers:
    """For each row the first row with its key, itself where it is the first."""
    # lexsort is stable: of equal keys the earliest row comes first.
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    in_order = keys[order]
    is_new = np.ones(len(keys), dtype=np.bool_)
    is_new[1:] = (in_order[1:] != in_order[:-1]).any(axis=1)
    first = np.empty(len(keys), dtype=np.int64)
    first[order] = order[np.flatnonzero(is_new)][np.cumsum(is_new) - 1]
    return first


def _as_numbers(keys: Keys) -> np.ndarray[tuple[int, int], np.dtype[np.uint64]]:
    content = keys.tobytes() if isinstance(keys, np.ndarray) else b"".join(keys)
    return np.frombuffer(content, dtype=np.uint64).reshape(-1, KEY_BYTES // 8)


def _parts(example: Example) -> Iterator[str]:
    yield type(example).__name__
    yield example.label or ""
    match example:
        case Conversation():
            for message in example.messages:
                yield message.role
                yield from texts_of(Conversation(example.place, (message,)))
                yield from (f"call {call.name}" for call in message.tool_calls)
        case Continuation() | LabelledText():
            yield from texts_of(example)


def _digest(parts: Iterator[str] | list[str]) -> bytes:
    digest = blake2b(digest_size=KEY_BYTES)
    for part in parts:
        # No text holds this byte after folding, so that ("a b", "c") and ("a", "b c") differ.
        digest.update(" ".join(part.split()).encode("utf-8", "surrogatepass") + b"\xff")
    return digest.digest()
