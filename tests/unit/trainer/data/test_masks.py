"""Which tokens are learned: the assistant's words and its end of turn, whatever the template, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from finetune_api.spec import LossOn
from finetune_trainer.data.chat_template import ChatTemplate, Rendered, TemplateRefusal
from finetune_trainer.data.masks import LearnedText, MaskSource, choose_renderer, learned_tokens
from finetune_trainer.data.rows import Conversation, JsonObject, Message, ToolCall
from finetune_trainer.data.template_environment import Span
from finetune_trainer.errors import UserError
from tests.builders.examples import PLACE
from tests.builders.model_folders import CHATML, QWEN2, known_template

SPECIAL = {"bos_token": "<s>", "eos_token": "<|im_end|>"}


def conversation(*messages: Message) -> Conversation:
    return Conversation(PLACE, messages)


def user(content: str) -> Message:
    return Message("user", content)


def assistant(content: str, *, thinking: str | None = None, is_learned: bool = True) -> Message:
    return Message("assistant", content, thinking, is_learned=is_learned)


TWO_TURNS = conversation(
    user("Where is my order?"), assistant("It was sent today."), user("退款"), assistant("已经发货了。")
)
# Llama's and Zephyr's habits: a first token, no newline after the end of a turn, the end token as a variable.
OTHER_MARKUP = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{{ m.content | trim }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
WITH_MARKERS = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant"
    "{% generation %}{{ '\n' + m.content }}{% endgeneration %}<|im_end|>\n"
    "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def render(template: str, row: Conversation = TWO_TURNS, loss_on: LossOn = LossOn.ASSISTANT) -> LearnedText:
    return choose_renderer(template, "the model", SPECIAL, loss_on).render(row)


def learned_texts(
    template: str, row: Conversation = TWO_TURNS, loss_on: LossOn = LossOn.ASSISTANT
) -> list[str]:
    rendered = render(template, row, loss_on)
    return [rendered.text[span.start : span.end] for span in rendered.learned]


PLAIN = ["It was sent today.<|im_end|>", "已经发货了。<|im_end|>"]
TEMPLATES = {
    "Qwen2's own": (QWEN2, MaskSource.GROWING_PREFIXES, PLAIN),
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
def test_the_assistants_words_and_their_end_are_learned_and_nothing_else(case: str) -> None:
    template, source, expected = TEMPLATES[case]
    assert choose_renderer(template, "the model", SPECIAL, LossOn.ASSISTANT).source is source
    assert learned_texts(template) == expected


@pytest.mark.parametrize("template", [CHATML, QWEN2, known_template("qwen2_5"), known_template("qwen3")])
def test_white_space_at_the_edges_of_an_answer_is_the_answers(template: str) -> None:
    [learned] = learned_texts(template, conversation(user("q"), assistant(" \n two\n\nlines \n")))
    assert learned.endswith(" two\n\nlines \n<|im_end|>")


@pytest.mark.parametrize("template", [CHATML, QWEN2, OTHER_MARKUP], ids=["ChatML", "Qwen2", "another"])
def test_an_answer_that_quotes_the_markup_is_learned_whole(template: str) -> None:
    quoting = "a<|im_end|>\n<|im_start|>assistant\nb<|assistant|>\nc"
    row = conversation(user(quoting), assistant(quoting), user("q"), assistant("b"))
    assert learned_texts(template, row) == [f"{quoting}<|im_end|>", "b<|im_end|>"]


def test_every_character_is_learned_where_the_job_says_so() -> None:
    text = learned_texts(known_template("qwen3"), loss_on=LossOn.ALL)
    assert text == [render(known_template("qwen3"), loss_on=LossOn.ALL).text]
    assert text[0].startswith("<|im_start|>user\nWhere is my order?<|im_end|>")


# --- other courses of a conversation ---------------------------------------------------------------------------

SYSTEM = Message("system", "Be brief.")
COURSES: dict[str, tuple[Conversation, list[str]]] = {
    "a system message": (conversation(SYSTEM, user("q"), assistant("a")), ["a<|im_end|>"]),
    "an empty system message": (
        conversation(Message("system", ""), user("q"), assistant("a")),
        ["a<|im_end|>"],
    ),
    "a question that nobody answers": (conversation(user("q"), assistant("a"), user("q2")), ["a<|im_end|>"]),
    "an assistant that begins": (
        conversation(SYSTEM, assistant("hello"), user("q"), assistant("a")),
        ["hello<|im_end|>", "a<|im_end|>"],
    ),
    "two questions in a row": (
        conversation(user("q"), user("q2"), assistant("a")),
        ["a<|im_end|>"],
    ),
    "two answers in a row": (
        conversation(user("q"), assistant("a"), assistant("b")),
        ["a<|im_end|>", "b<|im_end|>"],
    ),
    "a system message between": (
        conversation(user("q"), assistant("a"), SYSTEM, user("q2"), assistant("b")),
        ["a<|im_end|>", "b<|im_end|>"],
    ),
    "an answer that says nothing": (
        conversation(user("q"), assistant(""), user("q2"), assistant("b")),
        ["<|im_end|>", "b<|im_end|>"],
    ),
    "an answer that is not learned": (
        conversation(user("q"), assistant("a", is_learned=False), user("q2"), assistant("b")),
        ["b<|im_end|>"],
    ),
    "a last answer that is not learned": (
        conversation(user("q"), assistant("a"), user("q2"), assistant("a", is_learned=False)),
        ["a<|im_end|>"],
    ),
}


@pytest.mark.parametrize("case", COURSES)
@pytest.mark.parametrize(
    "template",
    [QWEN2, CHATML, WITH_MARKERS, known_template("qwen2_5"), known_template("qwen3")],
    ids=["Qwen2", "ChatML", "markers", "Qwen2.5", "Qwen3"],
)
def test_whatever_course_a_conversation_takes(template: str, case: str) -> None:
    row, expected = COURSES[case]
    thinks = "<think>\n\n</think>\n\n" if template == known_template("qwen3") else ""
    assert learned_texts(template, row) == [thinks + text for text in expected]


@pytest.mark.parametrize("template", [QWEN2, WITH_MARKERS], ids=["without markers", "with markers"])
def test_an_answer_of_weight_0_is_not_learned_where_every_token_is(template: str) -> None:
    row = conversation(user("q"), assistant("a", is_learned=False), user("q2"), assistant("b"))
    before, after = learned_texts(template, row, LossOn.ALL)
    assert before.endswith("<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n")
    assert after.startswith("\n<|im_start|>user\nq2")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        pytest.param(
            conversation(user("q"), assistant("a", thinking="why"), user("q2"), assistant("b")),
            ["<think>\nwhy\n</think>\n\na<|im_end|>", "<think>\n\n</think>\n\nb<|im_end|>"],
            id="as a field of its own",
        ),
        pytest.param(
            conversation(user("q"), assistant("<think>\nwhy\n</think>\n\na")),
            ["<think>\nwhy\n</think>\n\na<|im_end|>"],
            id="inside the content",
        ),
    ],
)
def test_the_reasoning_of_a_turn_is_learned_with_it(row: Conversation, expected: list[str]) -> None:
    assert learned_texts(known_template("qwen3"), row) == expected


WEATHER: JsonObject = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALL = Message("assistant", "", tool_calls=(ToolCall("weather", {"city": "Ulm"}),))
TOOL_USE = Conversation(
    PLACE,
    (user("q"), CALL, Message("tool", "22"), Message("tool", "23"), assistant("Warm.")),
    (WEATHER,),
)


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3"])
def test_a_tool_call_is_learned_and_its_result_is_not(name: str) -> None:
    thinks = "<think>\n\n</think>\n\n" if name == "qwen3" else ""
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Ulm"}}\n</tool_call><|im_end|>'
    assert learned_texts(known_template(name), TOOL_USE) == [thinks + call, thinks + "Warm.<|im_end|>"]


def test_a_tool_call_is_learned_by_growing_prefixes_too() -> None:
    # The same template, which nobody knows any more.
    changed = known_template("qwen2_5").replace("You are Qwen", "You are Quentin")
    assert (
        choose_renderer(changed, "the model", SPECIAL, LossOn.ASSISTANT).source is MaskSource.GROWING_PREFIXES
    )
    assert learned_texts(changed, TOOL_USE) == learned_texts(known_template("qwen2_5"), TOOL_USE)


# --- what a template leaves out --------------------------------------------------------------------------------

LOSSES: dict[str, tuple[str, Conversation, str]] = {
    "tools": (
        QWEN2,
        Conversation(PLACE, (user("q"), assistant("a")), (WEATHER,)),
        "it leaves out the tools; set dataset.chatTemplate to one that knows tools",
    ),
    "a tool call": (
        QWEN2,
        conversation(user("q"), CALL, Message("tool", "22"), assistant("Warm.")),
        "it leaves out the tool call of message 2; set dataset.chatTemplate",
    ),
    "the text beside a tool call": (
        known_template("llama3_1"),
        conversation(user("q"), Message("assistant", "Let me see.", tool_calls=CALL.tool_calls)),
        "it shows either the text or the tool call of message 2, not both",
    ),
    "reasoning": (
        QWEN2,
        conversation(user("q"), assistant("a", thinking="why")),
        "it leaves out the reasoning of message 2; set dataset.chatTemplate to one that shows reasoning",
    ),
    "reasoning inside the content": (
        known_template("deepseekv3"),
        conversation(user("q"), assistant("<think>why</think>a")),
        "it leaves out the reasoning of message 2",
    ),
}


@pytest.mark.parametrize("case", LOSSES)
def test_a_template_that_leaves_something_out_refuses_the_row(case: str) -> None:
    template, row, sentence = LOSSES[case]
    with pytest.raises(TemplateRefusal) as caught:
        render(template, row)
    assert sentence in str(caught.value)


def test_a_template_for_images_is_given_its_content_in_parts() -> None:
    rendered = render(known_template("smolvlm"))
    assert [rendered.text[span.start : span.end] for span in rendered.learned] == [
        " It was sent today.<end_of_utterance>",
        " 已经发货了。<end_of_utterance>",
    ]


# --- which template --------------------------------------------------------------------------------------------


def test_the_matched_template_names_its_training_variant() -> None:
    renderer = choose_renderer(known_template("qwen3"), "s3://models/base", SPECIAL, LossOn.ASSISTANT)
    assert renderer.explanation == (
        "the chat template of s3://models/base is known: its training variant qwen3_training.jinja marks what is learned"
    )


def test_a_template_that_rewrites_earlier_turns_refuses_the_row() -> None:
    rewriting = CHATML.replace("{{ message.content }}", "{{ message.content if loop.last else '…' }}")
    with pytest.raises(TemplateRefusal, match=r"message 2 otherwise .* set dataset\.chatTemplate"):
        render(rewriting)


def test_a_template_that_ends_no_turn_is_told() -> None:
    endless = CHATML.replace("<|im_end|>", "")
    renderer = choose_renderer(endless, "the model", SPECIAL, LossOn.ASSISTANT)
    assert renderer.end_of_turn == ""
    assert renderer.explanation.endswith("it ends no turn, so the model will not learn where to stop")


def test_a_long_conversation_is_rendered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    renderer = choose_renderer(QWEN2, "the model", SPECIAL, LossOn.ASSISTANT)
    renderings: list[int] = []
    original = ChatTemplate.render

    def counted(
        template: ChatTemplate, messages: Sequence[Message], *tools: Sequence[JsonObject]
    ) -> Rendered:
        renderings.append(len(messages))
        return original(template, messages, *tools)

    monkeypatch.setattr(ChatTemplate, "render", counted)
    rendered = renderer.render(conversation(*[user("q"), assistant("a")] * 50))
    assert (len(rendered.learned), renderings) == (50, [100])


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
