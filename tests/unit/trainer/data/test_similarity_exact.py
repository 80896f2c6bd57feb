"""Rows that say exactly the same, and those that only look so."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from finetune_trainer.data.rows import (
    Continuation,
    Conversation,
    Example,
    LabelledText,
    Message,
    Place,
    ToolCall,
)
from finetune_trainer.data.similarity import (
    Contradictions,
    SimilarPair,
    comparable_text,
    exact_duplicates,
    exact_key,
    find_contradictions,
    find_leakage,
    text_key,
)

PLACE = Place("rows.jsonl", "line", 1)


def chat(*turns: str, system: str = "") -> Conversation:
    roles = ("user", "assistant") * len(turns)
    messages = tuple(Message(role, turn) for role, turn in zip(roles, turns, strict=False))  # type: ignore[arg-type]
    return Conversation(PLACE, (Message("system", system), *messages) if system else messages)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        pytest.param(
            chat("a b", "c"), replace(chat("a b", "c"), place=Place("x", "row", 9)), id="another place"
        ),
        pytest.param(chat("a  b\n", "c"), chat(" a b", "c"), id="other white space"),
    ],
)
def test_rows_that_say_the_same_have_one_key(left: Example, right: Example) -> None:
    assert exact_key(left) == exact_key(right)
    assert len(exact_key(left)) == 16


@pytest.mark.parametrize(
    ("left", "right"),
    [
        pytest.param(chat("US", "c"), chat("us", "c"), id="another case"),
        pytest.param(chat("a b", "c"), chat("ab", "c"), id="white space that is missing"),
        pytest.param(chat("a b", "c"), chat("a", "b c"), id="another border"),
        pytest.param(
            Conversation(PLACE, (Message("user", "a"),)),
            Conversation(PLACE, (Message("assistant", "a"),)),
            id="another role",
        ),
        pytest.param(chat("a", "b"), chat("a", "b", system="s"), id="a system prompt"),
        pytest.param(LabelledText(PLACE, "a", "x"), LabelledText(PLACE, "a", "y"), id="another label"),
        pytest.param(Continuation(PLACE, "a", "b"), chat("a", "b"), id="another kind of example"),
        pytest.param(
            Conversation(PLACE, (Message("assistant", "", tool_calls=(ToolCall("f", {"x": "1"}),)),)),
            Conversation(PLACE, (Message("assistant", "", tool_calls=(ToolCall("g", {"x": "1"}),)),)),
            id="another tool",
        ),
    ],
)
def test_rows_that_differ_have_different_keys(left: Example, right: Example) -> None:
    assert exact_key(left) != exact_key(right)


def test_half_a_surrogate_pair_has_a_key() -> None:
    assert exact_key(LabelledText(PLACE, "\ud800", "x")) != exact_key(LabelledText(PLACE, "\udfff", "x"))


KEYS = [exact_key(LabelledText(PLACE, text, "l")) for text in "abacbad"]


@pytest.mark.parametrize("as_matrix", [False, True], ids=["keys one by one", "keys as a matrix"])
def test_the_earlier_row_stays(as_matrix: bool) -> None:
    keys = np.frombuffer(b"".join(KEYS), np.uint8).reshape(-1, 16) if as_matrix else KEYS
    found = exact_duplicates(keys)
    assert found.repeats.tolist() == [-1, -1, 0, -1, 1, 0, -1]
    assert found.repeats.dtype == np.int64
    assert found.count == 3
    assert found.stay.tolist() == [True, True, False, True, False, False, True]
    assert found.pairs == (SimilarPair(2, 0, 1.0), SimilarPair(4, 1, 1.0), SimilarPair(5, 0, 1.0))


def test_the_first_twenty_pairs_are_shown() -> None:
    found = exact_duplicates([KEYS[0]] * 100)
    assert found.count == 99
    assert [pair.row for pair in found.pairs] == list(range(1, 21))


def test_without_rows_there_are_no_duplicates() -> None:
    assert exact_duplicates([]).repeats.tolist() == []
    assert find_leakage([], KEYS).tolist() == []
    assert find_leakage(KEYS, []).tolist() == [-1] * 7


def test_leakage_names_the_first_row_of_the_other_split() -> None:
    assert find_leakage(KEYS, [KEYS[6], KEYS[1], KEYS[4]]).tolist() == [-1, 1, -1, -1, 1, -1, 0]


def test_a_text_with_two_labels_is_a_contradiction_and_no_duplicate() -> None:
    rows = [LabelledText(PLACE, text, label) for text, label in ("ax", "by", "ay", "bz", "ax", "by")]
    keys = [text_key(row) for row in rows]
    assert find_contradictions(keys, [row.label for row in rows]) == Contradictions(2, ((2, 0), (3, 1)))
    assert exact_duplicates([exact_key(row) for row in rows]).repeats.tolist() == [-1, -1, -1, -1, 0, 1]


QUESTION = "Classify the text. Answer with one of these labels: a, b."


@pytest.mark.parametrize(
    ("example", "text"),
    [
        pytest.param(chat("q", "a", "r", "b", system="long prompt"), "q\na\nr\nb", id="no system prompt"),
        pytest.param(
            replace(chat(f"{QUESTION}\n\none\n\ntwo", "a"), label="a"),
            "one\n\ntwo",
            id="no instruction and no label",
        ),
        pytest.param(
            replace(chat("one text", "a"), label="a"), "one text", id="a text without an instruction"
        ),
        pytest.param(LabelledText(PLACE, "t", "l"), "t", id="no label"),
        pytest.param(Continuation(PLACE, "", "text"), "text", id="plain text"),
        pytest.param(
            Conversation(PLACE, (Message("assistant", "x", tool_calls=(ToolCall("f", {"q": "y"}),)),)),
            "x\ny",
            id="the arguments of a call",
        ),
    ],
)
def test_near_duplicates_are_looked_for_in_what_tells_rows_apart(example: Example, text: str) -> None:
    assert comparable_text(example) == text


PROGRAM = """
import sys
from finetune_trainer.data.augmentation import Augmenter
from finetune_trainer.data.balance import decide_balance
from finetune_trainer.data.cleaning import Cleaner
from finetune_trainer.data.rows import LabelledText, Place
from finetune_trainer.data.similarity import exact_key
from finetune_api.spec import Augmentation, BalanceMethod, Preparation
heavy = {"sklearn", "scipy", "datasketch", "phonenumbers"} & set(sys.modules)
assert not heavy, heavy
row = LabelledText(Place("f", "line", 1), "A big dog. It ran! Where to? Nobody knows.", "l")
augment = Augmentation.model_validate({"methods": ["Synonyms", "Reorder"], "copies": 3, "wordList": "s3://bucket/words"})
print(exact_key(row).hex())
print([copy.text for copy in Augmenter.build(augment, [["big", "large", "huge"]], 7).copies(row)])
print(decide_balance(list("aaaaaaab"), 3, BalanceMethod.DOWNSAMPLE, 7))
Cleaner.build(Preparation())
from finetune_trainer.data.similarity.minhash import minhash_signature
print(minhash_signature(row.text).hex())
"""


def test_every_process_decides_the_same_and_loads_no_library_it_does_not_need() -> None:
    def printed(seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert printed("1") == printed("2")


def test_duplicates_travel_between_processes() -> None:
    found = exact_duplicates(KEYS)
    copy = pickle.loads(pickle.dumps(found))
    assert (copy.repeats.tolist(), copy.pairs) == (found.repeats.tolist(), found.pairs)
