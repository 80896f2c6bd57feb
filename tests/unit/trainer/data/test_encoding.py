"""Examples as tokens: by a tokenizer whose ids are bytes, so that every expected id is written down by hand."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from finetune_api.spec import LossOn
from finetune_trainer.data.encoding import EncoderSettings, ExampleEncoder
from finetune_trainer.data.prepared import TokenizedRow
from finetune_trainer.data.rows import Continuation, Conversation, Example, LabelledText, Message, RowProblem
from finetune_trainer.errors import UserError
from tests.builders.examples import PLACE
from tests.builders.model_folders import (
    CHATML,
    byte_tokenizer_json,
    known_template,
    tokenizer_json,
    write_tokenizer_folder,
)

END_OF_TEXT, START, END, THINK, END_THINK = 256, 257, 258, 259, 260
CHAT = Conversation(PLACE, (Message("user", "Hi"), Message("assistant", "Yo")))


def make_settings(
    folder: Path,
    *,
    chat_template: str | None = None,
    loss_on: LossOn = LossOn.ASSISTANT,
    labels: tuple[str, ...] = (),
) -> EncoderSettings:
    return EncoderSettings(folder, chat_template, "the model", loss_on, labels)


def make_encoder(tmp_path: Path, **changes: Any) -> ExampleEncoder:
    names = ("chat_template", "loss_on", "labels")
    settings = {name: changes.pop(name) for name in names if name in changes}
    return ExampleEncoder.build(make_settings(write_tokenizer_folder(tmp_path, **changes), **settings))


def encode(encoder: ExampleEncoder, example: Example) -> TokenizedRow:
    [row] = encoder.encode([example])
    assert isinstance(row, TokenizedRow), row
    return row


def test_a_conversation_is_its_template_with_the_answer_learned(tmp_path: Path) -> None:
    row = encode(make_encoder(tmp_path), CHAT)
    user = [START, *b"user\n", *b"Hi", END, *b"\n"]
    header, answer = [START, *b"assistant\n"], [*b"Yo", END]
    assert list(row.input_ids) == [*user, *header, *answer, *b"\n"]
    assert list(row.learned) == [0] * len(user + header) + [1] * len(answer) + [0]
    assert row.label is None


def test_qwen3_thinks_before_it_answers(tmp_path: Path) -> None:
    row = encode(make_encoder(tmp_path, chat_template=known_template("qwen3")), CHAT)
    given = [START, *b"user\nHi", END, *b"\n", START, *b"assistant\n"]
    learned = [THINK, *b"\n\n", END_THINK, *b"\n\nYo", END]
    assert list(row.input_ids) == [*given, *learned, *b"\n"]
    assert list(row.learned) == [0] * len(given) + [1] * len(learned) + [0]


def test_every_token_is_learned_where_the_job_says_so(tmp_path: Path) -> None:
    encoder = make_encoder(tmp_path, loss_on=LossOn.ALL)
    for example in (CHAT, Continuation(PLACE, "p", "c")):
        assert set(encode(encoder, example).learned) == {1}


def test_a_continuation_learns_what_follows_and_one_end(tmp_path: Path) -> None:
    row = encode(make_encoder(tmp_path), Continuation(PLACE, "2+2=", "4!"))
    assert list(row.input_ids) == [*b"2+2=", *b"4!", END]
    assert list(row.learned) == [0, 0, 0, 0, 1, 1, 1]


def test_a_text_is_learned_whole(tmp_path: Path) -> None:
    row = encode(make_encoder(tmp_path), Continuation(PLACE, "", "天"))
    assert list(row.input_ids) == [*"天".encode(), END]
    assert list(row.learned) == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        pytest.param("<|endoftext|>", END_OF_TEXT, id="a base model's"),
        pytest.param("<|im_end|>", END, id="a chat model's"),
    ],
)
def test_the_end_token_is_the_models(tmp_path: Path, end: str, expected: int) -> None:
    encoder = make_encoder(tmp_path, special_tokens={"eos_token": end})
    assert encode(encoder, Continuation(PLACE, "p", "c")).input_ids[-1] == expected


def test_a_text_that_has_its_end_gets_no_second_one(tmp_path: Path) -> None:
    row = encode(make_encoder(tmp_path), Continuation(PLACE, "p", "c<|im_end|>"))
    assert (list(row.input_ids), list(row.learned)) == ([*b"pc", END], [0, 1, 1])


def test_the_first_token_that_a_tokenizer_adds_is_given(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer_json(first_token="<|endoftext|>")
    encoder = make_encoder(tmp_path, tokenizer=tokenizer)
    row = encode(encoder, Continuation(PLACE, "", "ab"))
    assert (list(row.input_ids), list(row.learned)) == ([END_OF_TEXT, *b"ab", END], [0, 1, 1, 1])
    # A chat template writes its first token itself.
    assert encode(encoder, CHAT).input_ids[0] == START


def test_a_token_across_the_border_is_given(tmp_path: Path) -> None:
    # With merges: " order" is one token, and the border is within it.
    encoder = make_encoder(tmp_path, tokenizer=tokenizer_json())
    whole = encode(encoder, Continuation(PLACE, "", "Where is my order?"))
    split = encode(encoder, Continuation(PLACE, "Where is my ord", "er?"))
    assert split.input_ids == whole.input_ids
    learned = [token for token, mark in zip(split.input_ids, split.learned, strict=True) if mark]
    assert encoder.decode(learned) == "?<|im_end|>"


def test_a_labelled_text_has_a_label_and_nothing_to_learn(tmp_path: Path) -> None:
    encoder = make_encoder(tmp_path, labels=("bad", "good"))
    row = encode(encoder, LabelledText(PLACE, "ok", "good"))
    assert (list(row.input_ids), list(row.learned), row.label) == ([*b"ok"], [0, 0], 1)


def test_a_labelled_text_has_the_tokenizers_own_special_tokens(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer_json(first_token="<|im_start|>")
    encoder = make_encoder(tmp_path, tokenizer=tokenizer, labels=("bad", "good"))
    assert list(encode(encoder, LabelledText(PLACE, "ok", "bad")).input_ids) == [START, *b"ok"]


def test_examples_of_all_kinds_keep_their_order(tmp_path: Path) -> None:
    encoder = make_encoder(tmp_path, chat_template=known_template("gemma"), labels=("a",))
    refused = Conversation(PLACE, (Message("system", "s"), *CHAT.messages))
    rows = encoder.encode([Continuation(PLACE, "", "x"), refused, CHAT, LabelledText(PLACE, "y", "a"), CHAT])
    assert isinstance(rows[1], RowProblem)
    assert rows[1].sentence == ("rows.jsonl line 7: the chat template refuses it (System role not supported)")
    assert [row.input_ids[0] for row in (rows[0], rows[3]) if isinstance(row, TokenizedRow)] == [*b"xy"]
    assert rows[2] == rows[4]
    assert encoder.encode([]) == []


def test_a_conversation_needs_a_template_and_a_text_does_not(tmp_path: Path) -> None:
    encoder = ExampleEncoder.build(make_settings(write_tokenizer_folder(tmp_path, chat_template=None)))
    assert encode(encoder, Continuation(PLACE, "", "x")).learned_count == 2
    assert encoder.template is None
    with pytest.raises(UserError, match=r"^the model has no chat template .* Set dataset\.chatTemplate"):
        encoder.encode([CHAT])
    assert encoder.explanation.startswith("conversations cannot be rendered: the model has no chat template")
    assert encoder.fingerprint()["training_template"] is None


def test_the_jobs_template_goes_before_the_models(tmp_path: Path) -> None:
    encoder = make_encoder(tmp_path, chat_template="{% generation %}x{% endgeneration %}")
    assert encoder.template == "{% generation %}x{% endgeneration %}"
    assert list(encode(encoder, CHAT).input_ids) == [*b"x"]


def test_a_model_that_names_no_end_is_refused_for_texts_alone(tmp_path: Path) -> None:
    encoder = make_encoder(tmp_path, special_tokens={})
    assert encode(encoder, CHAT).learned_count == 3
    with pytest.raises(UserError, match=r"names no eos_token, .* Set eos_token there"):
        encoder.encode([Continuation(PLACE, "p", "c")])


def test_a_model_whose_end_is_no_token_is_refused(tmp_path: Path) -> None:
    encoder = make_encoder(tmp_path, special_tokens={"eos_token": "</s>"})
    with pytest.raises(UserError, match=r"names the eos_token '</s>', which tokenizer.json has not"):
        encoder.encode([Continuation(PLACE, "p", "c")])


def test_a_damaged_tokenizer_is_named(tmp_path: Path) -> None:
    folder = write_tokenizer_folder(tmp_path)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"^tokenizer\.json of the model cannot be read"):
        ExampleEncoder.build(make_settings(folder))


def test_settings_travel_to_worker_processes(tmp_path: Path) -> None:
    settings = make_settings(write_tokenizer_folder(tmp_path), labels=("a",))
    there = ExampleEncoder.build(pickle.loads(pickle.dumps(settings)))
    assert there.encode([CHAT]) == ExampleEncoder.build(settings).encode([CHAT])


def test_the_vocabulary_reaches_to_the_last_special_token(tmp_path: Path) -> None:
    assert make_encoder(tmp_path).vocabulary_size == 261


FINGERPRINTS: dict[str, dict[str, Any]] = {
    "another template": {"chat_template": CHATML + " "},
    "another loss": {"loss_on": LossOn.ALL},
    "another label": {"labels": ("a",)},
    "another tokenizer": {"tokenizer": tokenizer_json()},
    "another end": {"special_tokens": {"eos_token": "<|endoftext|>"}},
}


@pytest.mark.parametrize("case", FINGERPRINTS)
def test_whatever_changes_the_tokens_changes_the_fingerprint(tmp_path: Path, case: str) -> None:
    usual = make_encoder(tmp_path / "usual").fingerprint()
    assert usual == make_encoder(tmp_path / "the same").fingerprint()
    assert usual != make_encoder(tmp_path / "changed", **FINGERPRINTS[case]).fingerprint()


def test_a_template_that_writes_the_date_has_it_in_its_fingerprint(tmp_path: Path) -> None:
    dated = make_encoder(tmp_path / "dated", chat_template=known_template("llama3_2"))
    assert dated.fingerprint()["date"] is not None
    assert make_encoder(tmp_path / "plain").fingerprint()["date"] is None
