"""Which tokens are learned: the assistant's words and its end of turn, whatever the template, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_api.spec import LossOn
from finetune_trainer.data.chat_template import ChatTemplate, Span, TemplateRefusal
from finetune_trainer.data.formats import Conversation, Message
from finetune_trainer.data.masks import MaskSource, choose_renderer, learned_tokens
from finetune_trainer.data.prepared import TokenizedRow
from finetune_trainer.data.tokenization import ModelTokenizer, load_tokenizer
from finetune_trainer.errors import UserError
from tests.builders.model_folders import CHATML, known_template, write_model_folder

SPECIAL = {"bos_token": "<s>", "eos_token": "<|im_end|>"}
TWO_TURNS = Conversation(
    "rows line 1",
    (
        Message("user", "Where is my order?"),
        Message("assistant", "It was sent today."),
        Message("user", "退款"),
        Message("assistant", "已经发货了。"),
    ),
)
# Llama's and Zephyr's habits: a first token, no newline after the end of a turn, the end token as a variable.
OTHER_MARKUP = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{{ m.content | trim }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
WITH_MARKERS = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant"
    "{% generation %}\n{{ m.content }}{% endgeneration %}<|im_end|>\n"
    "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ModelTokenizer:
    return load_tokenizer(write_model_folder(tmp_path_factory.mktemp("model")))


def tokenize(
    tokenizer: ModelTokenizer,
    template: str,
    row: Conversation = TWO_TURNS,
    loss_on: LossOn = LossOn.ASSISTANT,
) -> TokenizedRow:
    renderer = choose_renderer(template, "the model", SPECIAL, loss_on)
    return tokenizer.encode([renderer.render(row)])[0]


def learned_texts(tokenizer: ModelTokenizer, row: TokenizedRow) -> list[str]:
    """The text of each run of learned tokens."""
    runs: list[list[int]] = []
    before = 0
    for token, learned in zip(row.input_ids, row.learned, strict=True):
        if learned:
            runs = runs if before else [*runs, []]
            runs[-1].append(token)
        before = learned
    return [tokenizer.decode(run) for run in runs]


PLAIN = ["It was sent today.<|im_end|>", "已经发货了。<|im_end|>"]
TEMPLATES = {
    "plain ChatML, which no one knows": (CHATML, MaskSource.GROWING_PREFIXES, PLAIN),
    "Qwen2.5's own": (known_template("qwen2_5"), MaskSource.TRAINING_TEMPLATE, PLAIN),
    "Qwen3's own, whose training variant thinks": (
        known_template("qwen3"),
        MaskSource.TRAINING_TEMPLATE,
        [f"<think>\n\n</think>\n\n{text}" for text in PLAIN],
    ),
    "Qwen3 Instruct's own": (known_template("qwen3_instruct_2507"), MaskSource.TRAINING_TEMPLATE, PLAIN),
    "Qwen3's own, saved with a newline behind it": (
        known_template("qwen3") + "\n",
        MaskSource.TRAINING_TEMPLATE,
        [f"<think>\n\n</think>\n\n{text}" for text in PLAIN],
    ),
    "one with markers around the content alone": (WITH_MARKERS, MaskSource.GENERATION_MARKERS, PLAIN),
    "one with another markup": (OTHER_MARKUP, MaskSource.GROWING_PREFIXES, PLAIN),
}


@pytest.mark.parametrize("case", TEMPLATES)
def test_the_assistants_words_and_their_end_are_learned_and_nothing_else(
    tokenizer: ModelTokenizer, case: str
) -> None:
    template, source, expected = TEMPLATES[case]
    assert choose_renderer(template, "the model", SPECIAL, LossOn.ASSISTANT).source is source
    assert learned_texts(tokenizer, tokenize(tokenizer, template)) == expected


@pytest.mark.parametrize("template", [CHATML, known_template("qwen2_5"), known_template("qwen3")])
def test_white_space_at_the_edges_of_an_answer_is_the_answers(
    tokenizer: ModelTokenizer, template: str
) -> None:
    row = Conversation("rows line 1", (Message("user", "q"), Message("assistant", " \n two\n\nlines \n")))
    [learned] = learned_texts(tokenizer, tokenize(tokenizer, template, row))
    assert learned.endswith(" two\n\nlines \n<|im_end|>")


def test_an_answer_that_quotes_the_markup_is_learned_whole(tokenizer: ModelTokenizer) -> None:
    row = Conversation(
        "rows line 1", (Message("user", "q"), Message("assistant", "a<|im_end|>\n<|im_start|>assistant\nb"))
    )
    [learned] = learned_texts(tokenizer, tokenize(tokenizer, CHATML, row))
    assert learned == "a<|im_end|>\n<|im_start|>assistant\nb<|im_end|>"


def test_with_trimmed_offsets_the_same_tokens_are_learned(tokenizer: ModelTokenizer, tmp_path: Path) -> None:
    trimming = load_tokenizer(write_model_folder(tmp_path, trim_offsets=True))
    row = Conversation(
        "rows line 1", (Message("user", " q "), Message("assistant", " spaced  out \n"), *TWO_TURNS.messages)
    )
    for template in (CHATML, known_template("qwen2_5"), known_template("qwen3")):
        assert tokenize(trimming, template, row) == tokenize(tokenizer, template, row)


def test_every_token_is_learned_where_the_job_says_so(tokenizer: ModelTokenizer) -> None:
    row = tokenize(tokenizer, known_template("qwen3"), loss_on=LossOn.ALL)
    assert set(row.learned) == {1}
    assert tokenizer.decode(row.input_ids).startswith("<|im_start|>user\nWhere is my order?<|im_end|>")


def test_the_matched_template_names_its_training_variant() -> None:
    renderer = choose_renderer(known_template("qwen3"), "s3://models/base", SPECIAL, LossOn.ASSISTANT)
    assert renderer.explanation == (
        "the chat template of s3://models/base is known: its training variant qwen3_training.jinja marks what is learned"
    )


def test_a_template_that_rewrites_earlier_turns_is_refused_naming_the_row() -> None:
    rewriting = CHATML.replace("{{ message.content }}", "{{ message.content if loop.last else '…' }}")
    renderer = choose_renderer(rewriting, "the model", SPECIAL, LossOn.ASSISTANT)
    with pytest.raises(UserError, match=r"message 2 of rows line 1 otherwise .* Set dataset\.chatTemplate"):
        renderer.render(TWO_TURNS)


def test_a_template_without_generation_prompt_and_markers_is_refused() -> None:
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    with pytest.raises(UserError, match=r"ignores add_generation_prompt.*Set dataset\.chatTemplate"):
        choose_renderer(template, "the model", SPECIAL, LossOn.ASSISTANT)


BROKEN_TEMPLATES = {
    "an unclosed block": "{% for m in messages %}{{ m.content }}",
    "an unknown tag": "{% teach %}",
    "markers that do not end": "{% generation %}{{ messages }}",
    "an unknown filter": "{{ messages | teach }}",
}


@pytest.mark.parametrize("case", BROKEN_TEMPLATES)
def test_a_template_that_is_not_jinja_is_refused_when_it_is_loaded(case: str) -> None:
    with pytest.raises(UserError, match=r"The chat template of dataset.chatTemplate is not valid Jinja"):
        ChatTemplate(BROKEN_TEMPLATES[case], {}, "dataset.chatTemplate")


REFUSING_TEMPLATES = {
    "an exception of its own": ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
    "an attempt to reach Python's insides": ("{{ messages.__class__.__mro__ }}", "unsafe"),
    "an attempt to change the messages": ("{{ messages.append(1) }}", "unsafe"),
    "a missing field": ("{{ messages[0].tool.name }}", "has no attribute 'tool'"),
    "a namespace that hides something": ("{% set ns = namespace(__init__=1) %}", "begins with an underscore"),
    "arithmetic that fails": ("{{ 1 // 0 }}", "ZeroDivisionError"),
    "a range without end": ("{% for i in range(999999999) %}{% endfor %}", "range"),
}


@pytest.mark.parametrize("case", REFUSING_TEMPLATES)
def test_a_row_that_the_template_refuses_says_why(case: str) -> None:
    source, reason = REFUSING_TEMPLATES[case]
    with pytest.raises(TemplateRefusal) as caught:
        ChatTemplate(source, {}, "the model").render(TWO_TURNS.messages)
    assert reason in str(caught.value)


# "abcd", a blank trimmed to nothing, "efgh", a newline trimmed to nothing, "xy", "end"
OFFSETS = [(0, 4), (5, 5), (5, 9), (10, 10), (10, 12), (12, 15)]
SPANS = {
    "a token that begins before the span is not learned": (Span(6, 12), [0, 0, 0, 1, 1, 0]),
    "a token that ends behind the span is not learned": (Span(4, 11), [0, 1, 1, 1, 0, 0]),
    "trimmed white space before the span is not learned": (Span(10, 15), [0, 0, 0, 0, 1, 1]),
    "trimmed white space at the end of the span is learned": (Span(5, 10), [0, 0, 1, 1, 0, 0]),
    "an empty span": (Span(5, 5), [0] * 6),
    "the whole text": (Span(0, 15), [1] * 6),
}


@pytest.mark.parametrize("case", SPANS)
def test_tokens_are_learned_if_they_lie_wholly_in_a_span(case: str) -> None:
    span, expected = SPANS[case]
    assert list(learned_tokens(OFFSETS, [span])) == expected


CONVERSATIONS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
    [
        {"role": "system", "content": "Be brief. 简短。"},
        {"role": "user", "content": "Where is my order?"},
        {"role": "assistant", "content": "<think>\nlook\n</think>\n\nIt was sent."},
        {"role": "user", "content": "thanks <|im_end|>"},
        {"role": "assistant", "content": "bye\n"},
    ],
]


def test_text_tokens_and_marked_spans_are_those_of_transformers(tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    theirs = PreTrainedTokenizerFast.from_pretrained(write_model_folder(tmp_path))
    ours = load_tokenizer(tmp_path)
    assert ours.special_tokens == {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    for name in (
        "qwen3",
        "qwen3_training",
        "qwen2_5",
        "qwen2_5_training",
        "qwen3_instruct_2507_training",
        "llama3_training",
    ):
        template = ChatTemplate(known_template(name), ours.special_tokens, name)
        for messages in CONVERSATIONS:
            for prompt in (False, True):
                expected = theirs.apply_chat_template(
                    messages, chat_template=known_template(name), tokenize=False, add_generation_prompt=prompt
                )
                rendered = template.render(
                    [Message(**message) for message in messages], add_generation_prompt=prompt
                )
                assert rendered.text == expected
            if not name.endswith("_training"):
                continue
            encoded = theirs.apply_chat_template(
                messages,
                chat_template=known_template(name),
                return_dict=True,
                return_assistant_tokens_mask=True,
            )
            rendered = template.render([Message(**message) for message in messages])
            encoding = ours.tokenizer.encode(rendered.text, add_special_tokens=False)
            assert encoding.ids == encoded["input_ids"]
            assert list(learned_tokens(encoding.offsets, rendered.generated)) == encoded["assistant_masks"]
