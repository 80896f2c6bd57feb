"""What a row means, and what is said about a row that means nothing."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.spec import DataFormat, DataSource
from finetune_trainer.data.formats import Conversation, Message, as_conversation, decide_format
from finetune_trainer.data.sources import RawRow, RowProblem
from finetune_trainer.errors import DataError

MESSAGES = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
EXPECTED = (Message("user", "q"), Message("assistant", "a"))


def make_settings(**settings: Any) -> DataSource:
    return DataSource.model_validate({"source": "s3://data/rows.jsonl", **settings})


def parse(row: object, system_prompt: str | None = None, **settings: Any) -> Conversation | RowProblem:
    first = row if isinstance(row, dict) else MESSAGES
    row_format = decide_format(make_settings(**settings), "rows", first)
    return as_conversation(RawRow("rows line 7", row), row_format, system_prompt)


def assistant(content: object = "a", **fields: object) -> dict[str, object]:
    return {
        "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": content, **fields}]
    }


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(MESSAGES, id="messages"),
        pytest.param({"input_text": "q", "target_text": "a"}, id="input_text and target_text"),
        pytest.param({"question": "q", "answer": "a"}, id="question and answer"),
        pytest.param(
            {"query": "q", "response": "a", "id": 5},
            id="query and response, with a column that is not needed",
        ),
    ],
)
def test_the_usual_rows_are_recognised(row: dict[str, object]) -> None:
    assert parse(row) == Conversation("rows line 7", EXPECTED)


def test_the_format_is_explained() -> None:
    found = decide_format(make_settings(), "s3://data/rows.jsonl", {"question": "q", "answer": "a"})
    assert found.format is DataFormat.INPUT_TARGET
    assert found.explanation == (
        "s3://data/rows.jsonl: recognised as InputTarget, because its first row has the columns question and answer"
    )


def test_columns_name_others_than_the_usual() -> None:
    row = {"frage": "q", "antwort": "a", "answer": "wrong"}
    assert parse(row, columns={"input": "frage", "target": "antwort"}) == Conversation(
        "rows line 7", EXPECTED
    )


@pytest.mark.parametrize(
    ("columns", "row"),
    [
        pytest.param(
            {"input": "frage"}, {"frage": "Wo?", "answer": "Hier."}, id="the answer has its usual name"
        ),
        pytest.param(
            {"target": "antwort"}, {"query": "Wo?", "antwort": "Hier."}, id="the question has its usual name"
        ),
    ],
)
def test_a_column_that_is_not_named_is_called_as_usual(columns: dict[str, str], row: dict[str, str]) -> None:
    conversation = parse(row, columns=columns)
    assert isinstance(conversation, Conversation)
    assert [message.content for message in conversation.messages] == ["Wo?", "Hier."]


def test_an_unknown_shape_names_the_columns_it_has() -> None:
    with pytest.raises(
        DataError, match=r"rows: the format was not recognised; the first row has the columns prompt, text"
    ):
        decide_format(make_settings(), "rows", {"prompt": "q", "text": "a"})


def test_a_system_prompt_comes_before_rows_that_have_none() -> None:
    parsed = parse(MESSAGES, system_prompt="Be brief.")
    assert isinstance(parsed, Conversation)
    assert parsed.messages == (Message("system", "Be brief."), *EXPECTED)


def test_a_system_message_of_the_row_wins_over_the_jobs_prompt() -> None:
    own = {"messages": [{"role": "system", "content": "own"}, *MESSAGES["messages"]]}
    parsed = parse(own, system_prompt="Be brief.")
    assert isinstance(parsed, Conversation)
    assert [message.content for message in parsed.messages] == ["own", "q", "a"]


def test_an_empty_assistant_turn_is_allowed_beside_one_with_content() -> None:
    row = {"messages": [{"role": "assistant", "content": ""}, *MESSAGES["messages"]]}
    assert isinstance(parse(row), Conversation)


BAD_MESSAGES: dict[str, tuple[object, str]] = {
    "text instead of an object": ("hello", "the row is text; it must be an object"),
    "a list instead of an object": ([1], "the row is a list; it must be an object"),
    "null": (None, "the row is null; it must be an object"),
    "no messages": ({"text": "a"}, "messages is missing; it must be a list of {role, content}"),
    "messages is text": ({"messages": "q"}, "messages is text; it must be a list of {role, content}"),
    "messages is null": ({"messages": None}, "messages is null; it must be a list of {role, content}"),
    "messages is empty": ({"messages": []}, "messages is empty"),
    "a message that is text": (
        {"messages": ["q"]},
        "message 1 is text; it must be an object with role and content",
    ),
    "ShareGPT's names": (
        {"messages": [{"from": "human", "value": "q"}]},
        "message 1 has the role none; roles are system, user, assistant (ShareGPT's names are not read; "
        "write role and content)",
    ),
    "an unknown role": (
        {"messages": [{"role": "bot", "content": "q"}]},
        "message 1 has the role 'bot'; roles are system, user, assistant",
    ),
    "a role in capitals": (
        {"messages": [{"role": "User", "content": "q"}]},
        "message 1 has the role 'User'; roles are system, user, assistant",
    ),
    "a role that is a number": (
        {"messages": [{"role": 1, "content": "q"}]},
        "message 1 has the role a number; roles are system, user, assistant",
    ),
    "no content": ({"messages": [{"role": "user"}]}, "message 1 (user) has no content"),
    "content is null": (assistant(None), "the content of message 2 (assistant) is null; it must be text"),
    "content is a number": (
        assistant(5),
        "the content of message 2 (assistant) is a number; it must be text",
    ),
    "content is a list of parts": (
        assistant([{"type": "text", "text": "a"}]),
        "the content of message 2 (assistant) is a list; it must be text",
    ),
    "content is true": (
        assistant(True),
        "the content of message 2 (assistant) is true or false; it must be text",
    ),
    "an empty question": (
        {"messages": [{"role": "user", "content": " "}, {"role": "assistant", "content": "a"}]},
        "the content of message 1 (user) is empty",
    ),
    "no assistant": (
        {"messages": [{"role": "user", "content": "q"}]},
        "no assistant message has any content, so there is nothing to learn",
    ),
    "an assistant that says nothing": (
        assistant(" \n"),
        "no assistant message has any content, so there is nothing to learn",
    ),
    "a tool call": (
        assistant(tool_calls=[{}]),
        "message 2 calls a tool, which cannot be trained on yet; remove the row",
    ),
}


@pytest.mark.parametrize("case", BAD_MESSAGES)
def test_a_bad_row_of_messages_says_what_is_wrong(case: str) -> None:
    row, sentence = BAD_MESSAGES[case]
    assert parse(row, format="Messages") == RowProblem(f"rows line 7: {sentence}")


BAD_INPUT_TARGET: dict[str, tuple[object, str]] = {
    "no target": ({"input_text": "q"}, "column target_text is missing (it has input_text)"),
    "no input": ({"target_text": "a", "x": 1}, "column input_text is missing (it has target_text, x)"),
    "no columns": ({}, "column input_text is missing (it has no columns)"),
    "an empty target": ({"input_text": "q", "target_text": ""}, "column target_text is empty"),
    "a blank input": ({"input_text": "\n", "target_text": "a"}, "column input_text is empty"),
    "a target that is a number": (
        {"input_text": "q", "target_text": 5},
        "column target_text is a number; it must be text",
    ),
    "a target that is null": (
        {"input_text": "q", "target_text": None},
        "target_text is null; it must be text",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT_TARGET)
def test_a_bad_row_of_input_and_target_says_what_is_wrong(case: str) -> None:
    row, sentence = BAD_INPUT_TARGET[case]
    parsed = parse(row, format="InputTarget")
    assert isinstance(parsed, RowProblem)
    assert parsed.sentence.startswith("rows line 7: ")
    assert sentence.removeprefix("column ") in parsed.sentence
