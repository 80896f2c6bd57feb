"""Near duplicates by TF-IDF: the same as scikit-learn's vectors compared one with all, and nothing else."""

from __future__ import annotations

import random
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

from finetune_trainer.data.similarity import ngram_vectors, tfidf
from finetune_trainer.data.similarity.tfidf import near_duplicates_tfidf, near_leakage_tfidf

QUESTION = "How do I reset the password of my account on your web site, please?"
ANSWER = "怎样才能在你们的网站上重新设置我的账户密码呢？请告诉我具体的步骤。"


def some_rows(seed: int, rows: int) -> list[str]:
    """Chinese and English rows, of which four in ten are edited copies of earlier ones."""
    source = random.Random(seed)
    characters = "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动"
    words = ["".join(source.choices("abcdefghij", k=source.randint(2, 7))) for _ in range(150)]

    def new() -> str:
        if source.random() < 0.5:
            return "".join(source.choices(characters, k=source.randint(4, 40)))
        return " ".join(source.choices(words, k=source.randint(3, 15)))

    made: list[str] = []
    for _ in range(rows):
        if made and source.random() < 0.4:
            row = source.choice(made)
            for _ in range(source.randint(1, 8)):
                at = source.randrange(len(row) + 1)
                row = row[:at] + source.choice(["", "x", "测"]) + row[at + 1 :]
            made.append(row)
        else:
            made.append(new())
    return made


def greedy(cosines: np.ndarray, threshold: float) -> list[int]:
    """The rule itself: a row repeats the first earlier row that repeats none and is similar enough."""
    repeats: list[int] = []
    for row in range(len(cosines)):
        similar = np.flatnonzero(cosines[row, :row] >= threshold - 1e-6)
        repeats.append(next((int(each) for each in similar if repeats[each] < 0), -1))
    return repeats


def cosines_of(rows: list[str]) -> np.ndarray:
    vectorizer = HashingVectorizer(
        analyzer="char", ngram_range=(3, 5), n_features=2**20, alternate_sign=False, norm=None
    )
    vectors = TfidfTransformer(sublinear_tf=True).fit_transform(vectorizer.transform(rows))
    return np.asarray((vectors @ vectors.T).toarray())


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0])
def test_it_finds_what_comparing_all_with_all_finds(
    threshold: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Many blocks, chunks and parts, so that pairs within and across them are found.
    for module, name, small in (
        (ngram_vectors, "_READ_ROWS", 30),
        (ngram_vectors, "_BLOCK_ROWS", 50),
        (tfidf, "_CHUNK_ROWS", 70),
        (tfidf, "_COMPARED_NGRAMS", 2_000),
    ):
        monkeypatch.setattr(module, name, small)
    rows = some_rows(seed=3, rows=600)
    found = near_duplicates_tfidf(iter(rows), threshold)
    cosines = cosines_of(rows)
    assert found.repeats.tolist() == greedy(cosines, threshold)
    assert found.count > 0
    for pair in found.pairs:
        assert pair.similarity == pytest.approx(min(1.0, cosines[pair.row, pair.repeats]), abs=1e-5)


def test_an_edit_is_a_near_duplicate_and_another_question_is_none() -> None:
    rows = [
        QUESTION,
        ANSWER,
        QUESTION.replace("please", "thanks"),
        ANSWER[:-3] + "做法。",
        "Where is my parcel?",
    ]
    assert near_duplicates_tfidf(rows, 0.7).repeats.tolist() == [-1, -1, 0, 1, -1]


def test_what_all_rows_share_counts_little() -> None:
    """MinHash would call these the same."""
    template = "Please tell me politely and in one short sentence what the capital city of this country is: "
    countries = ["France", "Uganda", "Bolivia", "Mongolia", "Kyrgyzstan", "Zimbabwe", "Ecuador"]
    assert near_duplicates_tfidf([template + country for country in countries], 0.8).count == 0


def test_a_row_that_is_like_a_row_that_went_stays() -> None:
    """Else a chain of small changes would drop rows that have nothing in common with what is kept."""
    words = [f"word{number:02}" for number in range(60)]
    first, second, third = (" ".join(words[start : start + 30]) for start in (0, 6, 12))
    found = near_duplicates_tfidf([first, second, third], 0.6)
    assert found.repeats.tolist() == [-1, 0, -1]
    assert near_duplicates_tfidf([second, third], 0.6).repeats.tolist() == [-1, 0]


def test_rows_of_different_labels_are_not_compared() -> None:
    rows = [QUESTION, QUESTION, QUESTION.replace("How", "Now")]
    assert near_duplicates_tfidf(rows, 0.8, labels=["a", "b", "b"]).repeats.tolist() == [-1, -1, 1]


def test_texts_without_ngrams_are_similar_to_none() -> None:
    assert near_duplicates_tfidf(["", "", "ab", "ab", QUESTION], 0.5).repeats.tolist() == [-1] * 5


def test_no_rows() -> None:
    assert near_duplicates_tfidf([], 0.5).repeats.tolist() == []


@pytest.mark.parametrize("block_rows", [2, 1_000], ids=["many blocks", "one block"])
def test_leakage_is_judged_against_every_row_of_the_other_split(
    block_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ngram_vectors, "_BLOCK_ROWS", block_rows)
    others = ["Where is my parcel today?", QUESTION, QUESTION.replace("please", "thanks")]
    training = [ANSWER, QUESTION.replace("please", "thanks"), QUESTION + "?", ANSWER]
    found = near_leakage_tfidf(others, training, 0.8)
    assert found.repeats.tolist() == [-1, 1, 1, -1]
    assert [(pair.row, pair.repeats) for pair in found.pairs] == [(1, 1), (2, 1)]
    # Row 2 repeats row 1, and is compared with all the same.
    found = near_leakage_tfidf(others, training, 0.97)
    assert found.repeats.tolist() == [-1, 2, 1, -1]


def test_of_a_very_long_text_the_beginning_is_compared() -> None:
    words = [f"w{number}" for number in range(20_000)]
    long = " ".join(words)
    assert len(long) > ngram_vectors.COMPARED_CHARACTERS
    assert near_duplicates_tfidf([long, long + " and another end"], 0.9).repeats.tolist() == [-1, 0]


def test_texts_are_read_once_and_nothing_is_left_on_disk(tmp_path: Path) -> None:
    numbers = count()
    texts = (f"{QUESTION} {next(numbers)}" for _ in range(50))
    assert near_duplicates_tfidf(texts, 0.5, directory=tmp_path).count == 49
    assert list(tmp_path.iterdir()) == []
