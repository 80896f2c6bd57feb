"""Dialogues in their other shapes: ShareGPT, dialogue sequences, turns written as one text."""

from __future__ import annotations

import pytest

from finetune_trainer.data.rows import Conversation, Message, ToolCall
from tests.builders.examples import PLACE, read_conversation, read_problem, read_row

EXPECTED = (Message("user", "q"), Message("assistant", "a"))

GOOD: dict[str, dict[str, object]] = {
    "ShareGPT": {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    "ShareGPT with OpenAI's roles": {
        "conversations": [{"from": "user", "value": "q"}, {"from": "assistant", "value": "a"}]
    },
    "a dialogue sequence of role and text": {
        "dialogue_sequence": [{"role": "user", "text": "q"}, {"role": "assistant", "text": "a"}]
    },
    "a dialogue sequence of role and content": {
        "dialogue_sequence": [{"role": "用户", "content": "q"}, {"role": "客服", "content": "a"}]
    },
    "conversations of role and content with a domain": {
        "conversations": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
        "domain": "shop",
    },
    "a speaker and what was said": {
        "dialogue": [{"speaker": "Customer", "text": "q"}, {"speaker": "Agent", "text": "a"}]
    },
    "Chinese turns in a text": {"text": "用户:q\n助手:a"},
    "Chinese turns with a full-width colon": {"text": "客户：q\n客服： a\n"},
    "English turns in a text": {"text": "User: q\nAssistant: a"},
    "English turns with blank lines and indents": {"text": "\n  Human : q\n\n  AI : a\n"},
}


@pytest.mark.parametrize("case", GOOD)
def test_every_shape_of_a_dialogue_is_read(case: str) -> None:
    assert read_row(GOOD[case]) == Conversation(PLACE, EXPECTED)


def test_turns_of_several_lines_stay_whole() -> None:
    text = (
        "系统：简短。\n用户：第一行\n第二行\n\n注意：第三行\n助手：好的\n- 一\n- 二\n用户：谢谢\n助手：不客气"
    )
    assert read_conversation({"text": text}) == (
        Message("system", "简短。"),
        Message("user", "第一行\n第二行\n\n注意：第三行"),
        Message("assistant", "好的\n- 一\n- 二"),
        Message("user", "谢谢"),
        Message("assistant", "不客气"),
    )


def test_a_speaker_within_a_line_begins_no_turn() -> None:
    text = "User: Who is the User: in line 2?\nAssistant: You are."
    assert read_conversation({"text": text})[0].content == "Who is the User: in line 2?"


def test_share_gpt_with_tools() -> None:
    row = {
        "conversations": [
            {"from": "human", "value": "Weather?"},
            {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Ulm"}}'},
            {"from": "observation", "value": '{"degrees": 22}'},
            {"from": "gpt", "value": "Warm."},
        ],
        "system": "Be brief.",
        "tools": '[{"name": "weather"}]',
    }
    assert read_row(row) == Conversation(
        PLACE,
        (
            Message("system", "Be brief."),
            Message("user", "Weather?"),
            Message("assistant", "", tool_calls=(ToolCall("weather", {"city": "Ulm"}),)),
            Message("tool", '{"degrees": 22}'),
            Message("assistant", "Warm."),
        ),
        ({"name": "weather"},),
    )


def test_several_calls_in_one_turn() -> None:
    calls = '[{"name": "f", "arguments": {}}, {"name": "g", "arguments": "{\\"x\\": 1}"}]'
    row = {"conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": calls}]}
    assert read_conversation(row)[1].tool_calls == (ToolCall("f", {}), ToolCall("g", {"x": 1}))


@pytest.mark.parametrize(
    ("settings", "row"),
    [
        pytest.param(
            {"messages": "chat"},
            {"chat": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
            id="a list",
        ),
        pytest.param({"text": "body"}, {"body": "User: q\nAssistant: a"}, id="a text"),
    ],
)
def test_columns_name_others_than_the_usual(settings: dict[str, str], row: dict[str, object]) -> None:
    assert read_conversation(row, columns=settings) == EXPECTED


SHARE_GPT = GOOD["ShareGPT"]
PLAIN = GOOD["English turns in a text"]
BAD: dict[str, tuple[dict[str, object], dict[str, object], str]] = {
    "an unknown speaker in ShareGPT": (
        SHARE_GPT,
        {"conversations": [{"from": "narrator", "value": "q"}]},
        "message 1 has the role 'narrator'; roles are system, user, assistant and tool, and their usual other names",
    ),
    "no value": (
        SHARE_GPT,
        {"conversations": [{"from": "human"}]},
        "the content of message 1 (user) is missing",
    ),
    "a call that is no JSON": (
        SHARE_GPT,
        {"conversations": [{"from": "function_call", "value": "weather(Ulm)"}]},
        "message 1 (function_call) is text that is not JSON",
    ),
    "no call": (
        SHARE_GPT,
        {"conversations": [{"from": "function_call", "value": "[]"}]},
        "message 1 (function_call) calls no tool",
    ),
    "no answer": (
        SHARE_GPT,
        {"conversations": [{"from": "human", "value": "q"}]},
        "no message is the assistant's, so there is nothing to learn",
    ),
    "the other shape of a dialogue": (
        SHARE_GPT,
        {"text": "User: q\nAssistant: a"},
        "column conversations is missing (it has text)",
    ),
    "a text without a speaker": (
        PLAIN,
        {"text": "Hello there"},
        "no line begins with a speaker such as `User:` or `用户：`",
    ),
    "a text that begins before its first speaker": (
        PLAIN,
        {"text": "Chat of Monday\nUser: q\nAssistant: a"},
        "the text begins without a speaker such as `User:` or `用户：`",
    ),
    "a user who says nothing": (PLAIN, {"text": "User:\nAssistant: a"}, "turn 1 (user) is empty"),
    "an assistant who says nothing": (
        PLAIN,
        {"text": "User: q\nAssistant: "},
        "no assistant message has any content, so there is nothing to learn",
    ),
    "nobody but the user": (
        PLAIN,
        {"text": "User: q\nUser: q again"},
        "no message is the assistant's, so there is nothing to learn",
    ),
    "an empty text": (PLAIN, {"text": " "}, "column text is empty"),
    "a text that is a number": (PLAIN, {"text": 5}, "column text is a number; it must be text"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_dialogue_says_what_is_wrong(case: str) -> None:
    first_row, row, sentence = BAD[case]
    assert read_problem(row, first_row=first_row) == sentence
