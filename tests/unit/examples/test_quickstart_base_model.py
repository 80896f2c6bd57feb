"""The quickstart's base model: tokenizer, chat template, batches, optimizer, and a tiny model made end to end."""

import dataclasses
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from examples.quickstart import evaluate, make_base_model, make_data
from examples.quickstart.base_text import Document, build_documents, corpus_sentences
from examples.quickstart.make_base_model import Recipe
from examples.quickstart.muon import Muon, orthogonal

TINY = Recipe(steps=3, documents_per_step=4, warmup_steps=1, hidden_size=32, intermediate_size=48, layers=1)
CHAT = Document(
    messages=[{"role": "user", "content": "我的快递在哪？"}, {"role": "assistant", "content": "On its way."}]
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_base_model.train_tokenizer(corpus_sentences(), Recipe.vocabulary_size)


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("base") / "model"
    make_base_model.make_base_model(directory, TINY)
    return directory


def test_tokenizer_gives_every_request_back(tokenizer: PreTrainedTokenizerFast) -> None:
    data_set = make_data.build_data_set()
    for row in [*data_set.train, *data_set.heldout]:
        assert tokenizer.decode(tokenizer(row.request)["input_ids"]) == row.request


def test_tokenizer_keeps_chinese_words_apart(tokenizer: PreTrainedTokenizerFast) -> None:
    # A sentence of the corpus must not become one token: nothing could be learned about its words.
    assert len(tokenizer("退款还没有打过来")["input_ids"]) >= 3


@pytest.mark.parametrize("token", ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
def test_special_tokens_are_single_tokens(tokenizer: PreTrainedTokenizerFast, token: str) -> None:
    assert tokenizer(token)["input_ids"] == [tokenizer.convert_tokens_to_ids(token)]


def test_chat_template_writes_chatml(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = list(CHAT.messages)

    assert tokenizer.apply_chat_template(messages, tokenize=False) == (
        "<|im_start|>user\n我的快递在哪？<|im_end|>\n<|im_start|>assistant\nOn its way.<|im_end|>\n"
    )
    prompt = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    assert prompt == "<|im_start|>user\n我的快递在哪？<|im_end|>\n<|im_start|>assistant\n"


def test_pretraining_reads_chats_as_the_template_writes_them(tokenizer: PreTrainedTokenizerFast) -> None:
    for document in build_documents(200, seed=3):
        text = document.prose or tokenizer.apply_chat_template(list(document.messages), tokenize=False)
        expected = tokenizer(f"{text}<|endoftext|>")["input_ids"]
        assert make_base_model.tokenize(document, tokenizer, Recipe()).ids == expected


def test_replies_and_their_end_of_turn_count_most(tokenizer: PreTrainedTokenizerFast) -> None:
    recipe = Recipe()
    tokenized = make_base_model.tokenize(CHAT, tokenizer, recipe)

    pairs = zip(tokenized.ids, tokenized.weights, strict=True)
    heavy = [token for token, weight in pairs if weight == recipe.reply_weight]
    assert tokenizer.decode(heavy) == "On its way.<|im_end|>"


def test_documents_are_a_function_of_the_seed() -> None:
    assert build_documents(50, seed=1) == build_documents(50, seed=1)
    assert build_documents(50, seed=1) != build_documents(50, seed=2)


def test_batches_hold_every_document_once_and_padding_weighs_nothing() -> None:
    lengths = [5, 1, 9, 2, 7, 3, 8]
    documents = [
        make_base_model.TokenizedDocument(ids=[number + 1] * length, weights=[1.0] * length)
        for number, length in enumerate(lengths)
    ]

    batches = list(
        make_base_model.build_batches(documents, 0, dataclasses.replace(TINY, documents_per_step=2))
    )

    rows = [row for batch in batches for row in batch.ids.tolist()]
    assert sorted([token for token in row if token] for row in rows) == [d.ids for d in documents]
    for batch in batches:
        assert torch.equal(batch.weights == 0, batch.ids == 0)


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        pytest.param(0, 0.1, id="the first step is warm-up"),
        pytest.param(9, 1.0, id="warm-up ends"),
        pytest.param(50, 1.0, id="half-way the rate is still full"),
        pytest.param(75, 0.5, id="then it falls in a line"),
        pytest.param(100, 0.0, id="to nothing"),
    ],
)
def test_learning_rate_warms_up_holds_and_decays(step: int, factor: float) -> None:
    recipe = dataclasses.replace(TINY, steps=100, warmup_steps=10)

    assert make_base_model.learning_rate_factor(step, recipe) == pytest.approx(factor)


@pytest.mark.parametrize("shape", [(8, 8), (8, 20), (20, 8)], ids=["square", "wide", "tall"])
def test_orthogonal_brings_singular_values_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))

    values = torch.linalg.svdvals(orthogonal(matrix))

    assert values.min() > 0.4
    assert values.max() < 1.3


def test_muon_finds_a_matrix() -> None:
    target = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    matrix = torch.nn.Parameter(torch.zeros(6, 4))
    optimizer = Muon([matrix], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        torch.autograd.backward(((matrix - target) ** 2).sum())
        optimizer.step()

    assert (matrix - target).norm() < 0.2 * target.norm()


def test_model_directory_loads_like_any_users(tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)

    assert model.config.model_type == "qwen3"
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.tie_word_embeddings
    assert tokenizer.eos_token == "<|im_end|>"
    assert model.generation_config.eos_token_id[0] == tokenizer.eos_token_id
    assert (tiny_model / "chat_template.jinja").is_file()
    assert sorted(path.name for path in tiny_model.parent.iterdir()) == ["model"]


def test_the_same_seed_makes_the_same_weights(tiny_model: Path, tmp_path: Path) -> None:
    make_base_model.make_base_model(tmp_path / "again", TINY)

    for name in ("model.safetensors", "tokenizer.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tiny_model / name).read_bytes()


def test_a_directory_that_exists_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="name another directory"):
        make_base_model.make_base_model(tmp_path, TINY)


def test_requests_of_different_lengths_get_the_answers_they_get_alone(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    requests = ["退款", "Where is the parcel that I ordered last week?", "hi"]

    together = evaluate.generate(model, tokenizer, requests, max_new_tokens=6)

    assert together == [evaluate.generate(model, tokenizer, [request], 6)[0] for request in requests]


def test_only_the_bare_intent_is_a_right_answer() -> None:
    said = ["refund", "refund please", "Refund", "", "invoice"]
    answers = [evaluate.Answer("I want my money back.", "refund", answer) for answer in said]

    result = evaluate.build_evaluation(answers, seconds=1.0)

    assert (result.accuracy, result.correct, result.rows) == (0.2, 1, 5)


def test_evaluation_answers_every_heldout_request_in_order(tiny_model: Path) -> None:
    result = evaluate.evaluate(tiny_model)

    heldout = make_data.build_data_set().heldout
    assert [(answer.request, answer.intent) for answer in result.answers] == [
        (row.request, row.intent) for row in heldout
    ]
    assert all(answer.answer == answer.answer.strip() for answer in result.answers)
