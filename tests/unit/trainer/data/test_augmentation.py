"""Changed copies: only what is asked changes, and always in the same way."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from finetune_api.spec import Augmentation
from finetune_trainer.data.augmentation import Augmenter, Synonyms, reorder_sentences
from finetune_trainer.data.rows import (
    Continuation,
    Conversation,
    Example,
    LabelledText,
    Message,
    Place,
    ToolCall,
)

PLACE = Place("rows.jsonl", "line", 3)
WORDS = [
    ["big", "large"],
    ["in order to", "to"],
    ["高兴", "开心"],
    ["高兴极了", "欣喜若狂"],
    ["手机", "iPhone手机"],
]


def make_augmenter(
    methods: Sequence[str], words: Sequence[Sequence[str]] = (), seed: int = 1, **settings: Any
) -> Augmenter:
    with_list = {"wordList": "s3://bucket/words.txt"} if "Synonyms" in methods else {}
    augment = Augmentation.model_validate({"methods": list(methods), **with_list, **settings})
    return Augmenter.build(augment, words, seed)


def exchanged(text: str, fraction: float = 1.0, words: Sequence[Sequence[str]] = WORDS) -> str:
    return Synonyms.build(words).exchanged(text, fraction, np.random.RandomState(1))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("a big dog", "a large dog", id="a word"),
        pytest.param(
            "Big dogs. BIG! bigger, big-ish",
            "Large dogs. LARGE! bigger, big-ish",
            id="case, whole words only",
        ),
        pytest.param("in order to win", "to win", id="a phrase"),
        pytest.param("in order  to", "in order  in order to", id="a phrase has single spaces"),
        pytest.param("我很高兴。", "我很开心。", id="Chinese"),
        pytest.param("我高兴极了", "我欣喜若狂", id="the longest match wins"),
        pytest.param("用iPhone手机打", "用手机打", id="mixed scripts"),
        pytest.param("nothing here", "nothing here", id="no word of the list"),
        pytest.param("", "", id="an empty text"),
    ],
)
def test_words_are_exchanged_for_others_of_their_group(text: str, expected: str) -> None:
    assert exchanged(text) == expected


def test_a_fraction_of_the_words_is_exchanged_and_at_least_one() -> None:
    text = " ".join(["big"] * 20 + ["dog"] * 20)
    assert exchanged(text, 0.1).split().count("large") == 4
    assert exchanged(text, 0.001).split().count("large") == 1


def test_a_placeholder_is_no_word() -> None:
    assert exchanged("call [PHONE] by phone", words=[["phone", "telephone"]]) == "call [PHONE] by telephone"


def test_a_word_of_two_groups_has_the_words_of_both() -> None:
    groups = [["a", "b"], ["a", "c"]]
    found = {Synonyms.build(groups).exchanged("a", 1, np.random.RandomState(seed)) for seed in range(20)}
    assert found == {"b", "c"}


def reordered(text: str, seed: int, fraction: float = 0.1) -> str:
    return reorder_sentences(text, fraction, np.random.RandomState(seed))


@pytest.mark.parametrize(
    ("text", "possible"),
    [
        pytest.param("One. Two! ", {"Two! One. "}, id="English"),
        pytest.param("一。二！", {"二！一。"}, id="Chinese, without spaces"),
        pytest.param(
            "他说：“好。”然后走了。", {"然后走了。他说：“好。”"}, id="closing quotes belong to the sentence"
        ),
        pytest.param("first\nsecond", {"second\nfirst"}, id="lines"),
        pytest.param(
            "It costs 3.50 now. Buy v1.2!", {"Buy v1.2! It costs 3.50 now."}, id="points inside numbers"
        ),
        pytest.param(
            "Why?! Well... ok.",
            {
                "Well... Why?! ok.",
                "Why?! ok. Well...",
                "Well... ok. Why?!",
                "ok. Why?! Well...",
            },
            id="several marks",
        ),
        pytest.param("一。二！三", {"二！一。三"}, id="what has no end mark stays behind"),
        pytest.param("One sentence only.", {"One sentence only."}, id="one sentence"),
        pytest.param("", {""}, id="an empty text"),
    ],
)
def test_sentences_change_places_and_what_separates_them_stays(text: str, possible: set[str]) -> None:
    assert {reordered(text, seed) for seed in range(30)} == possible


def test_a_fraction_of_the_sentences_moves() -> None:
    text = " ".join(f"s{number}." for number in range(40))
    few, many = (reordered(text, 3, fraction).split() for fraction in (0.02, 0.5))
    assert sorted(few) == sorted(many) == sorted(text.split())
    # One sentence that moves shifts those between its old place and its new one, and leaves their order.
    moved = [
        one
        for one in text.split()
        if [each for each in few if each != one] == [each for each in text.split() if each != one]
    ]
    assert moved
    assert few != many


LONG = "A big dog. It is big! So big? Yes, big."


def test_only_what_the_user_says_is_changed() -> None:
    example = Conversation(
        PLACE,
        (
            Message("system", LONG),
            Message("user", LONG),
            Message("assistant", LONG, thinking=LONG, tool_calls=(ToolCall("f", {"q": LONG}),)),
            Message("tool", LONG),
            Message("user", "Thanks."),
            Message("assistant", LONG),
        ),
        tools=({"description": LONG},),
    )
    (copy,) = make_augmenter(["Synonyms", "Reorder"], WORDS).copies(example)
    assert isinstance(copy, Conversation)
    assert copy.messages[1].content != LONG
    assert replace(copy, messages=(copy.messages[0], example.messages[1], *copy.messages[2:])) == example


@pytest.mark.parametrize(
    ("example", "changes"),
    [
        pytest.param(Continuation(PLACE, "big", "big"), Continuation(PLACE, "large", "big"), id="a prompt"),
        pytest.param(
            LabelledText(PLACE, "big", "big"), LabelledText(PLACE, "large", "big"), id="a text, not its label"
        ),
        pytest.param(Continuation(PLACE, "", "big"), None, id="plain text is all learned"),
        pytest.param(
            Conversation(
                PLACE,
                (Message("user", "Answer with: big, small.\n\nbig"), Message("assistant", "big")),
                label="big",
            ),
            Conversation(
                PLACE,
                (Message("user", "Answer with: big, small.\n\nlarge"), Message("assistant", "big")),
                label="big",
            ),
            id="a text, not the question that names the labels",
        ),
        pytest.param(Continuation(PLACE, "`big` ```\nbig\n```", "x"), None, id="code stays"),
    ],
)
def test_each_kind_of_example_is_changed_where_it_asks(example: Example, changes: Example | None) -> None:
    assert make_augmenter(["Synonyms"], WORDS).copies(example) == ([changes] if changes else [])


def test_copies_differ_and_none_is_the_row_itself() -> None:
    example = LabelledText(PLACE, LONG, "l")
    copies = make_augmenter(["Reorder"], copies=10, fraction=0.5).copies(example)
    assert 2 < len(copies) <= 10
    assert example not in copies
    assert len({copy.text for copy in copies if isinstance(copy, LabelledText)}) == len(copies)
    assert make_augmenter(["Reorder"], copies=10).copies(LabelledText(PLACE, "One. Two.", "l")) == [
        LabelledText(PLACE, "Two. One.", "l")
    ]


def test_copies_depend_on_seed_and_place_and_nothing_else() -> None:
    text = " ".join(f"s{number}." for number in range(30))
    example = LabelledText(PLACE, text, "l")
    augmenter = make_augmenter(["Reorder"], copies=2)
    copies = augmenter.copies(example)
    augmenter.copies(LabelledText(PLACE, "Other. Rows. Between.", "l"))
    assert augmenter.copies(example) == copies
    assert pickle.loads(pickle.dumps(augmenter)).copies(example) == copies
    assert make_augmenter(["Reorder"], copies=2, seed=2).copies(example) != copies
    elsewhere = augmenter.copies(replace(example, place=Place("rows.jsonl", "line", 4)))
    assert [each.text for each in elsewhere if isinstance(each, LabelledText)] != [
        each.text for each in copies if isinstance(each, LabelledText)
    ]


def test_the_order_of_methods_in_the_job_does_not_matter() -> None:
    example = LabelledText(PLACE, LONG, "l")
    one, other = (
        make_augmenter(methods, WORDS).copies(example)
        for methods in (["Synonyms", "Reorder"], ["Reorder", "Synonyms"])
    )
    assert one == other
