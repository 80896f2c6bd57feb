"""Lists of messages as OpenAI writes them: roles, parts, tool calls, reasoning, weights; and what is said about bad ones."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_trainer.data.rows import Conversation, JsonObject, Message, RowProblem, ToolCall
from tests.builders.examples import PLACE, read_conversation, read_problem, read_row

USER = {"role": "user", "content": "q"}
MESSAGES: dict[str, object] = {"messages": [USER, {"role": "assistant", "content": "a"}]}
EXPECTED = (Message("user", "q"), Message("assistant", "a"))
WEATHER: JsonObject = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def answer(**fields: object) -> dict[str, object]:
    return {"messages": [USER, {"role": "assistant", **fields}]}


def test_messages_become_a_conversation() -> None:
    assert read_row(MESSAGES) == Conversation(PLACE, EXPECTED)


def test_a_system_prompt_comes_before_rows_that_have_none() -> None:
    assert read_conversation(MESSAGES, system_prompt="Be brief.") == (
        Message("system", "Be brief."),
        *EXPECTED,
    )


@pytest.mark.parametrize("own", ["own", ""], ids=["with words", "empty"])
def test_a_system_message_of_the_row_wins_over_the_jobs_prompt(own: str) -> None:
    row = {"messages": [{"role": "system", "content": own}, *MESSAGES["messages"]]}  # type: ignore[misc]
    assert read_conversation(row, system_prompt="Be brief.") == (Message("system", own), *EXPECTED)


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        pytest.param("row", "row", id="with words"),
        pytest.param("", "job", id="empty"),
        pytest.param(None, "job", id="null"),
    ],
)
def test_a_system_column_wins_where_it_says_something(system: object, expected: str) -> None:
    messages = read_conversation({**MESSAGES, "system": system}, system_prompt="job")
    assert messages[0] == Message("system", expected)


@pytest.mark.parametrize(
    ("written", "role"),
    [
        ("developer", "system"),
        ("User", "user"),
        ("human", "user"),
        ("客户", "user"),
        ("function", "tool"),
        ("observation", "tool"),
    ],
)
def test_other_names_of_a_role_are_known(written: str, role: str) -> None:
    row = {"messages": [{"role": written, "content": "x"}, *MESSAGES["messages"]]}  # type: ignore[misc]
    assert read_conversation(row)[0].role == role


def test_content_in_parts_is_joined() -> None:
    parts = [{"type": "text", "text": "It was "}, {"type": "text", "text": "sent."}]
    assert read_conversation(answer(content=parts))[1] == Message("assistant", "It was sent.")


def test_an_empty_answer_is_allowed_beside_one_with_content() -> None:
    row = {"messages": [USER, {"role": "assistant", "content": ""}, *MESSAGES["messages"]]}  # type: ignore[misc]
    assert read_conversation(row)[1] == Message("assistant", "")


def test_messages_may_be_json_text_as_csv_has_them() -> None:
    row = {"messages": '[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]'}
    assert read_conversation(row) == EXPECTED


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning"])
def test_reasoning_is_kept_apart_from_the_answer(key: str) -> None:
    assert read_conversation(answer(content="a", **{key: "because"}))[1] == Message(
        "assistant", "a", thinking="because"
    )


def test_reasoning_inside_the_content_is_left_to_the_template() -> None:
    content = "<think>\nbecause\n</think>\n\na"
    assert read_conversation(answer(content=content))[1] == Message("assistant", content)


@pytest.mark.parametrize(
    ("weight", "is_learned"), [(0, False), (1, True), (0.0, False), (None, True), (False, False)]
)
def test_an_answer_of_weight_0_is_not_learned(weight: object, is_learned: bool) -> None:
    row = {
        "messages": [
            *answer(content="x", weight=weight)["messages"],  # type: ignore[misc]
            *MESSAGES["messages"],
        ]
    }
    assert read_conversation(row)[1].is_learned is is_learned


TOOL_CALLS: dict[str, dict[str, object]] = {
    "arguments as an object": {
        "tool_calls": [
            {
                "id": "c1",
                "type": "function",
                "function": {"name": "weather", "arguments": {"city": "Ulm"}},
            }
        ]
    },
    "arguments as JSON text": {
        "tool_calls": [{"id": "c1", "function": {"name": "weather", "arguments": '{"city": "Ulm"}'}}]
    },
    "a call without function around it": {
        "tool_calls": [{"id": "c1", "name": "weather", "arguments": {"city": "Ulm"}}]
    },
}


@pytest.mark.parametrize("case", TOOL_CALLS)
@pytest.mark.parametrize("content", [{"content": None}, {}, {"content": ""}], ids=["null", "absent", "empty"])
def test_tool_calls_need_no_content(case: str, content: dict[str, object]) -> None:
    call = ToolCall("weather", {"city": "Ulm"}, "c1")
    assert read_conversation(answer(**content, **TOOL_CALLS[case]))[1] == Message(
        "assistant", "", tool_calls=(call,)
    )


def test_the_older_function_call_is_a_tool_call() -> None:
    row = {
        "messages": [
            USER,
            {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": "{}"}},
            {"role": "function", "name": "weather", "content": "22"},
            {"role": "assistant", "content": "Warm."},
        ],
        "functions": [{"name": "weather", "parameters": {"type": "object", "title": None}}],
    }
    assert read_row(row) == Conversation(
        PLACE,
        (
            Message("user", "q"),
            Message("assistant", "", tool_calls=(ToolCall("weather", {}),)),
            Message("tool", "22", name="weather"),
            Message("assistant", "Warm."),
        ),
        (WEATHER,),
    )


def test_a_tools_result_names_its_call() -> None:
    row = {
        "messages": [
            *answer(**TOOL_CALLS["arguments as an object"])["messages"],  # type: ignore[misc]
            {"role": "tool", "tool_call_id": "c1", "content": ""},
        ]
    }
    assert read_conversation(row)[2] == Message("tool", "", tool_call_id="c1")


@pytest.mark.parametrize(
    ("tools", "expected"),
    [
        pytest.param([WEATHER], (WEATHER,), id="a list"),
        pytest.param(
            '[{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]',
            (WEATHER,),
            id="JSON text",
        ),
        pytest.param([{**WEATHER, "strict": None}], (WEATHER,), id="fields that Parquet filled with null"),
        pytest.param(None, (), id="null"),
        pytest.param("", (), id="an empty cell"),
        pytest.param([], (), id="an empty list"),
    ],
)
def test_the_tools_of_a_row_are_read(tools: object, expected: tuple[object, ...]) -> None:
    example = read_row({**MESSAGES, "tools": tools})
    assert isinstance(example, Conversation)
    assert example.tools == expected


KNOWN = "system, user, assistant and tool, and their usual other names"
BAD_MESSAGES: dict[str, tuple[object, str]] = {
    "text instead of an object": ("hello", "the row is text; it must be an object"),
    "a list instead of an object": ([1], "the row is a list; it must be an object"),
    "null": (None, "the row is null; it must be an object"),
    "no messages": ({"text": "a"}, "column messages is missing (it has text)"),
    "messages is text": ({"messages": "q"}, "messages is text; it must be a list of {role, content}"),
    "messages is null": ({"messages": None}, "messages is null; it must be a list of {role, content}"),
    "messages is broken JSON text": (
        {"messages": '[{"role": "user"'},
        "messages is text; it must be a list of {role, content}",
    ),
    "messages is empty": ({"messages": []}, "messages is empty"),
    "a message that is text": (
        {"messages": ["q"]},
        "message 1 is text; it must be an object with role and content",
    ),
    "no role": ({"messages": [{"content": "q"}]}, f"message 1 has the role none; roles are {KNOWN}"),
    "an unknown role": (
        {"messages": [{"role": "narrator", "content": "q"}]},
        f"message 1 has the role 'narrator'; roles are {KNOWN}",
    ),
    "a whole sentence as role is cut": (
        {"messages": [{"role": "x" * 50, "content": "q"}]},
        f"message 1 has the role '{'x' * 40} …'; roles are {KNOWN}",
    ),
    "a role that is a number": (
        {"messages": [{"role": 1, "content": "q"}]},
        f"message 1 has the role a number; roles are {KNOWN}",
    ),
    "no content": ({"messages": [{"role": "user"}]}, "the content of message 1 (user) is missing"),
    "content is null": (
        answer(content=None),
        "the content of message 2 (assistant) is null; it must be text",
    ),
    "content is a number": (
        answer(content=5),
        "the content of message 2 (assistant) is a number; it must be text",
    ),
    "content is true": (
        answer(content=True),
        "the content of message 2 (assistant) is true or false; it must be text",
    ),
    "content is an object": (
        answer(content={"text": "a"}),
        "the content of message 2 (assistant) is an object; it must be text",
    ),
    "an image": (
        answer(content=[{"type": "image_url", "image_url": {"url": "x"}}]),
        "the content of message 2 (assistant) has a part of type 'image_url'; only text can be learned",
    ),
    "a part that is a number": (
        answer(content=[5]),
        "the content of message 2 (assistant) has a part that is a number; it must be {type: text, text}",
    ),
    "a part without text": (
        answer(content=[{"type": "text"}]),
        "the text of a part of the content of message 2 (assistant) is null; it must be text",
    ),
    "an empty question": (
        {"messages": [{"role": "user", "content": " "}, {"role": "assistant", "content": "a"}]},
        "the content of message 1 (user) is empty",
    ),
    "no assistant": (
        {"messages": [USER]},
        "no message is the assistant's, so there is nothing to learn",
    ),
    "an assistant that says nothing": (
        answer(content=" \n"),
        "no assistant message has any content, so there is nothing to learn",
    ),
    "nothing but weight 0": (
        answer(content="a", weight=0),
        "every assistant message has weight 0, so there is nothing to learn",
    ),
    "a weight between": (
        answer(content="a", weight=0.5),
        "the weight of message 2 must be 0 (read, not learned) or 1",
    ),
    "reasoning that is a list": (
        answer(content="a", thinking=["x"]),
        "thinking of message 2 is a list; it must be text",
    ),
    "tool calls that are no list": (
        answer(tool_calls={"name": "f"}),
        "tool_calls of message 2 is an object; it must be a list",
    ),
    "a tool call that is text": (
        answer(tool_calls=["f()"]),
        "tool call 1 of message 2 is text; it must be an object with name and arguments",
    ),
    "a tool call without a name": (
        answer(tool_calls=[{"function": {"arguments": "{}"}}]),
        "tool call 1 of message 2 names no function",
    ),
    "a function that is text": (
        answer(tool_calls=[{"function": "f"}]),
        "function of tool call 1 of message 2 is text; it must be an object",
    ),
    "arguments that are no JSON": (
        answer(tool_calls=[{"function": {"name": "f", "arguments": "city=Ulm"}}]),
        "the arguments of tool call 1 of message 2 is text that is not JSON",
    ),
    "arguments that are a list": (
        answer(tool_calls=[{"function": {"name": "f", "arguments": "[1]"}}]),
        "the arguments of tool call 1 of message 2 are a list; they must be an object",
    ),
    "tools that are no list": (
        {**MESSAGES, "tools": {"name": "f"}},
        "column tools is an object; it must be a list of tools",
    ),
    "tools that are no JSON": ({**MESSAGES, "tools": "weather"}, "column tools is text that is not JSON"),
    "a tool that is text": (
        {**MESSAGES, "tools": ["weather"]},
        "tool 1 of column tools is text; it must be an object",
    ),
}


@pytest.mark.parametrize("case", BAD_MESSAGES)
def test_a_bad_row_says_what_is_wrong(case: str) -> None:
    row, sentence = BAD_MESSAGES[case]
    assert read_problem(row, first_row=MESSAGES) == sentence


def test_a_problem_names_its_column() -> None:
    problem: Any = read_row({"messages": [{"role": "narrator", "content": "q"}]}, first_row=MESSAGES)
    assert isinstance(problem, RowProblem)
    assert problem.column == "messages"
    assert problem.sentence.startswith("rows.jsonl line 7: message 1 has the role 'narrator'")


def test_a_problem_quotes_nothing_that_somebody_said() -> None:
    canary = "canary@example.org"
    rows: list[object] = [
        canary,
        {"messages": canary},
        {"messages": [{"role": "user", "content": {"secret": canary}}]},
        answer(tool_calls=[{"function": {"name": "f", "arguments": canary}}]),
        {**MESSAGES, "tools": canary},
    ]
    for row in rows:
        assert canary not in read_problem(row, first_row=MESSAGES)


def test_half_a_character_in_json_text_is_refused() -> None:
    # Read as it stands it would end the tokenizer with the whole batch.
    row = {"messages": '[{"role": "user", "content": "\\ud83d"}, {"role": "assistant", "content": "a"}]'}
    assert read_problem(row, first_row=MESSAGES) == "messages is text; it must be a list of {role, content}"
    whole = {
        "messages": '[{"role": "user", "content": "\\ud83d\\udc4d"}, {"role": "assistant", "content": "a"}]'
    }
    assert read_conversation(whole, first_row=MESSAGES)[0].content == "👍"


def test_a_row_that_is_nested_too_deeply_is_refused() -> None:
    tool: dict[str, object] = {}
    for _ in range(5_000):
        tool = {"a": tool}
    assert read_problem({**MESSAGES, "tools": [tool]}) == "the row is nested too deeply"
