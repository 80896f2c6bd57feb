"""Near duplicates by MinHash: exact where the texts are at hand, near the truth from signatures alone."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from finetune_trainer.data.similarity import lsh
from finetune_trainer.data.similarity.lsh import bands_and_rows
from finetune_trainer.data.similarity.minhash import (
    SIGNATURE_BYTES,
    as_signatures,
    minhash_signature,
    near_duplicates_minhash,
    near_duplicates_of_signatures,
    near_leakage_of_signatures,
    shingle_hashes,
)

QUESTION = "How do I reset the password of my account on your web site? I tried it twice and it did not work."
ANSWER = "怎样才能在你们的网站上重新设置我的账户密码呢？请告诉我具体的步骤，我已经试过两次都没有成功，谢谢。"


def signatures_of(*texts: str) -> np.ndarray:
    return as_signatures([minhash_signature(text) for text in texts])


def jaccard(left: str, right: str) -> float:
    """By definition, from the folded texts' own 4-grams."""
    sets = []
    for text in (left, right):
        folded = " ".join(text.lower().split())
        sets.append({folded[at : at + 4] for at in range(max(1, len(folded) - 3))} if folded else set())
    return len(sets[0] & sets[1]) / max(1, len(sets[0] | sets[1]))


def edited(text: str, source: random.Random, edits: int) -> str:
    for _ in range(edits):
        at = source.randrange(len(text))
        text = text[:at] + source.choice(["", "x", "测"]) + text[at + 1 :]
    return text


def some_rows(rows: int) -> list[str]:
    source = random.Random(5)
    made: list[str] = []
    for _ in range(rows):
        if made and source.random() < 0.4:
            made.append(edited(source.choice(made), source, source.randint(0, 10)))
        else:
            made.append("".join(source.choices("的一是在不了有和人这abcdefgh ", k=source.randint(40, 120))))
    return made


def test_shingles_are_the_set_of_four_characters() -> None:
    assert len(shingle_hashes("abcdefg")) == 4
    assert len(shingle_hashes("aaaaaaaa")) == 1
    assert shingle_hashes("ABCD  e\n").tolist() == shingle_hashes("abcd e").tolist()
    assert len(shingle_hashes("ab")) == 1
    assert len(shingle_hashes("")) == 0


def test_a_signature_has_256_bytes_and_tells_how_similar_two_texts_are() -> None:
    assert len(minhash_signature("")) == len(minhash_signature(QUESTION)) == SIGNATURE_BYTES == 256
    rows = some_rows(200)
    signatures = signatures_of(*rows)
    pairs = [(left, right) for left in range(200) for right in range(left)]
    errors = np.array(
        [
            (signatures[left] == signatures[right]).mean() - jaccard(rows[left], rows[right])
            for left, right in pairs
        ]
    )
    assert abs(errors.mean()) < 0.002
    # Five standard deviations of an estimate from 128 values, at most.
    assert np.abs(errors).max() < 5 * np.sqrt(0.25 / 128)


def test_a_long_text_has_the_signature_of_all_of_it() -> None:
    source = random.Random(1)
    text = "".join(source.choices("abcdefghijklmnop", k=60_000))
    hashes = shingle_hashes(text)
    assert len(hashes) > 2 * 16_384
    halves = [as_signatures([minhash_signature(part)])[0] for part in (text[:30_003], text[30_000:])]
    whole = as_signatures([minhash_signature(text)])[0]
    assert ((whole == halves[0]) | (whole == halves[1])).all()


@cache
def rows_and_similarities() -> tuple[list[str], list[list[float]]]:
    rows = some_rows(400)
    return rows, [[jaccard(row, other) for other in rows[:number]] for number, row in enumerate(rows)]


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.9, 1.0])
def test_with_the_texts_at_hand_it_finds_what_comparing_all_with_all_finds(threshold: float) -> None:
    rows, similarities = rows_and_similarities()
    repeats: list[int] = []
    for row in range(len(rows)):
        similar = (
            other for other in range(row) if repeats[other] < 0 and similarities[row][other] >= threshold
        )
        repeats.append(next(similar, -1))
    found = near_duplicates_minhash(iter(rows), threshold)
    assert found.repeats.tolist() == repeats
    assert found.count > 0
    for pair in found.pairs:
        assert pair.similarity == pytest.approx(similarities[pair.row][pair.repeats])


def test_signatures_find_an_edit_and_not_another_text() -> None:
    rows = [QUESTION, ANSWER, QUESTION + " Why?", "请" + ANSWER, "Where is my parcel?", ""]
    found = near_duplicates_of_signatures(signatures_of(*rows), 0.8)
    assert found.repeats.tolist() == [-1, -1, 0, 1, -1, -1]
    assert found.pairs[0].similarity == pytest.approx(jaccard(rows[0], rows[2]), abs=0.1)


def test_empty_texts_are_similar_to_none() -> None:
    assert near_duplicates_of_signatures(signatures_of("", "", QUESTION), 0.5).count == 0
    assert near_duplicates_minhash(["", "", QUESTION], 0.5).count == 0
    assert near_duplicates_minhash([], 0.5).repeats.tolist() == []


def test_a_row_that_is_like_a_row_that_went_stays() -> None:
    words = [f"word{number:02}" for number in range(60)]
    rows = [" ".join(words[start : start + 30]) for start in (0, 5, 10)]
    similarities = jaccard(rows[0], rows[1]), jaccard(rows[0], rows[2])
    threshold = sum(similarities) / 2
    assert near_duplicates_minhash(rows, threshold).repeats.tolist() == [-1, 0, -1]


def test_rows_of_different_labels_are_not_compared() -> None:
    signatures = signatures_of(QUESTION, QUESTION, QUESTION + "!")
    found = near_duplicates_of_signatures(signatures, 0.8, labels=["a", "b", "b"])
    assert found.repeats.tolist() == [-1, -1, 1]


def test_leakage_is_judged_against_every_row_of_the_other_split() -> None:
    others = signatures_of("Where is my parcel today?", QUESTION, QUESTION)
    training = signatures_of(ANSWER, QUESTION + "!", ANSWER)
    found = near_leakage_of_signatures(others, training, 0.8)
    assert found.repeats.tolist() == [-1, 1, -1]
    assert [(pair.row, pair.repeats) for pair in found.pairs] == [(1, 1)]


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.5, 0.7, 0.8, 0.9, 0.99, 1.0])
def test_bands_find_nearly_every_pair_at_the_threshold(threshold: float) -> None:
    bands, length = bands_and_rows(threshold, 128)
    assert bands * length <= 128
    assert (1 - threshold**length) ** bands <= 0.005


def test_a_band_that_very_many_rows_share_does_not_grow_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of one template: alike in some bands, and not similar enough."""
    monkeypatch.setattr(lsh, "_LARGEST_GROUP", 4)
    source = np.random.RandomState(2)
    signatures = source.randint(0, 65_000, (40, 128)).astype("<u2")
    signatures[:, :64] = 7
    signatures[30:, 64:] = signatures[:10, 64:]
    looked_at = []

    def similarity(row: int, others: np.ndarray) -> np.ndarray:
        looked_at.append(len(others))
        return np.asarray((signatures[others] == signatures[row]).mean(axis=1))

    found = lsh.search_signatures(signatures, 0.9, similarity)
    # Those in full groups are still found by the bands that are their own.
    assert found.repeats.tolist() == [-1] * 30 + list(range(10))
    assert max(looked_at) <= 5


def test_nothing_is_left_on_disk(tmp_path: Path) -> None:
    assert near_duplicates_minhash([QUESTION, QUESTION], 0.9, directory=tmp_path).count == 1
    assert list(tmp_path.iterdir()) == []
