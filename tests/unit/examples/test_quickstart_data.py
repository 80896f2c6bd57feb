"""The quickstart's data set: size, balance, format, variety, and held-out rows that nothing was trained on."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from examples.quickstart import base_text, make_base_model, make_data

DATA = Path(make_data.__file__).parent / "data"
INTENTS = {
    "cancel_subscription",
    "change_address",
    "damaged_item",
    "delete_account",
    "delivery_delay",
    "human_agent",
    "invoice",
    "order_status",
    "payment_failed",
    "promo_code",
    "refund",
    "reset_password",
    "technical_issue",
    "warranty",
}


def load_rows(split: str) -> list[tuple[str, str]]:
    lines = (DATA / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line)["messages"] for line in lines]
    return [(user["content"], assistant["content"]) for user, assistant in rows]


ENTITIES = make_data.entity_names()


def wording(text: str) -> str:
    """What is left of a request without case, names, digits, punctuation and white space."""
    text = text.lower()
    for name in ENTITIES:
        text = text.replace(name, "")
    return re.sub(r"[\W\d_]", "", text)


def grams(sentence: str, length: int) -> set[str]:
    """The character n-grams of a sentence without slots and punctuation."""
    text = wording(make_data.SLOT.sub("", sentence))
    return {text[at : at + length] for at in range(max(1, len(text) - length + 1))}


def test_generator_reproduces_the_committed_files(tmp_path: Path) -> None:
    make_data.save_data_set(make_data.build_data_set(), tmp_path)

    for name in ("train.jsonl", "heldout.jsonl"):
        assert (tmp_path / name).read_bytes() == (DATA / name).read_bytes(), (
            f"run make_data.py: {name} is stale"
        )


def test_another_seed_writes_other_rows() -> None:
    assert make_data.build_data_set(1).train != make_data.build_data_set(2).train


@pytest.mark.parametrize(("split", "least"), [("train", 800), ("heldout", 150)])
def test_rows_are_many_and_intents_equally_frequent(split: str, least: int) -> None:
    counts = Counter(intent for _, intent in load_rows(split))

    assert sum(counts.values()) >= least
    assert set(counts) == INTENTS
    assert len(set(counts.values())) == 1


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_every_row_is_one_request_and_one_answer_in_the_messages_format(split: str) -> None:
    for line in (DATA / f"{split}.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        assert set(row) == {"messages"}
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
        request = row["messages"][0]["content"]
        assert request == request.strip() != ""
        assert not re.search(r"[{}]", request), f"unfilled slot: {request}"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_intent_is_phrased_in_many_ways(language: str) -> None:
    for intent, phrasings in make_data.load_phrasings("train").items():
        sentences = {phrasing.text for phrasing in phrasings if phrasing.language == language}
        assert len(sentences) >= 25, intent


def test_no_training_row_stands_twice() -> None:
    requests = [request for request, _ in load_rows("train")]

    assert len(requests) == len(set(requests))


def test_no_heldout_row_says_what_a_training_row_says() -> None:
    trained = {wording(request) for request, _ in load_rows("train")}

    assert [request for request, _ in load_rows("heldout") if wording(request) in trained] == []


@pytest.mark.parametrize(("languages", "length"), [({"en"}, 3), ({"zh", "mixed"}, 2)], ids=["en", "zh"])
def test_heldout_sentences_are_not_reworded_training_sentences(languages: set[str], length: int) -> None:
    trained, heldout = (
        {p.text: grams(p.text, length) for ps in make_data.load_phrasings(split).values() for p in ps}
        for split in ("train", "heldout")
    )
    for phrasing in (p for ps in make_data.load_phrasings("heldout").values() for p in ps):
        if phrasing.language in languages:
            mine = heldout[phrasing.text]
            likeness, nearest = max(
                (len(mine & theirs) / len(mine | theirs), text) for text, theirs in trained.items()
            )
            assert likeness < 0.5, f"{phrasing.text!r} is close to {nearest!r}"


@pytest.mark.parametrize(
    "leak",
    [
        pytest.param("Where is my order #A20917?", id="the same words"),
        pytest.param("where is MY order 88213407", id="other case, punctuation and order number"),
    ],
)
def test_a_heldout_row_that_repeats_a_training_row_is_refused(leak: str) -> None:
    trained = [make_data.Row("Where is my order DD-4471?", "order_status")]

    with pytest.raises(ValueError, match="repeats training row"):
        make_data.refuse_leaks(trained, [make_data.Row(leak, "order_status")])


def test_base_model_has_read_neither_heldout_requests_nor_intents() -> None:
    recipe = make_base_model.Recipe()
    documents = base_text.build_documents(recipe.steps * recipe.documents_per_step, recipe.seed)
    texts = {text for d in documents for text in (d.prose, *(message["content"] for message in d.messages))}
    read = "\n".join(make_data.bare_text(text, []) for text in texts)

    assert [row for row, _ in load_rows("heldout") if make_data.bare_text(row, []) in read] == []
    joined_labels = {intent for intent in INTENTS if "_" in intent}
    assert [label for label in sorted(joined_labels) for text in texts if label in text] == []
