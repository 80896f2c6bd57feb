"""Questions and answers in columns: InputTarget, Alpaca with history, PromptCompletion as text and as messages."""

from __future__ import annotations

import pytest

from finetune_api.spec import Task
from finetune_trainer.data.rows import Continuation, Conversation, Message
from tests.builders.examples import PLACE, read_conversation, read_problem, read_row

EXPECTED = (Message("user", "q"), Message("assistant", "a"))


@pytest.mark.parametrize(
    "row",
    [
        pytest.param({"input_text": "q", "target_text": "a"}, id="input_text and target_text"),
        pytest.param({"question": "q", "answer": "a"}, id="question and answer"),
        pytest.param({"query": "q", "response": "a", "id": 5}, id="with a column that is not needed"),
    ],
)
def test_input_and_target_are_a_question_and_an_answer(row: dict[str, object]) -> None:
    assert read_row(row) == Conversation(PLACE, EXPECTED)


@pytest.mark.parametrize(
    ("columns", "row"),
    [
        pytest.param(
            {"input": "frage", "target": "antwort"},
            {"frage": "q", "antwort": "a", "answer": "wrong"},
            id="both are named",
        ),
        pytest.param({"input": "frage"}, {"frage": "q", "answer": "a"}, id="the answer has its usual name"),
        pytest.param(
            {"target": "antwort"}, {"query": "q", "antwort": "a"}, id="the question has its usual name"
        ),
    ],
)
def test_columns_may_be_named(columns: dict[str, str], row: dict[str, object]) -> None:
    assert read_conversation(row, columns=columns) == EXPECTED


def test_a_named_system_column_comes_first() -> None:
    row = {"question": "q", "answer": "a", "rules": "Be brief."}
    assert read_conversation(row, columns={"system": "rules"}, system_prompt="job") == (
        Message("system", "Be brief."),
        *EXPECTED,
    )


ALPACA: dict[str, tuple[dict[str, object], tuple[Message, ...]]] = {
    "an instruction alone": ({"instruction": "q", "output": "a"}, EXPECTED),
    "an empty input": ({"instruction": "q", "input": "", "output": "a"}, EXPECTED),
    "a null input": ({"instruction": "q", "input": None, "output": "a"}, EXPECTED),
    "an instruction with its input": (
        {"instruction": "Translate.", "input": "Haus", "output": "house"},
        (Message("user", "Translate.\nHaus"), Message("assistant", "house")),
    ),
    "an input alone": ({"instruction": "", "input": "q", "output": "a"}, EXPECTED),
    "earlier turns": (
        {"instruction": "q", "output": "a", "history": [["q1", "a1"], ["q2", "a2"]]},
        (
            Message("user", "q1"),
            Message("assistant", "a1"),
            Message("user", "q2"),
            Message("assistant", "a2"),
            *EXPECTED,
        ),
    ),
    "earlier turns as JSON text, as CSV has them": (
        {"instruction": "q", "output": "a", "history": '[["q1", "a1"]]'},
        (Message("user", "q1"), Message("assistant", "a1"), *EXPECTED),
    ),
    "no earlier turns": ({"instruction": "q", "output": "a", "history": []}, EXPECTED),
    "null for earlier turns": ({"instruction": "q", "output": "a", "history": None}, EXPECTED),
    "a system column": (
        {"instruction": "q", "output": "a", "system": "Be brief."},
        (Message("system", "Be brief."), *EXPECTED),
    ),
}


@pytest.mark.parametrize("case", ALPACA)
def test_alpaca_rows_are_read(case: str) -> None:
    row, expected = ALPACA[case]
    assert read_conversation(row) == expected


def test_alpaca_columns_may_be_named() -> None:
    row = {"task": "q", "context": "c", "response": "a", "past": [["q1", "a1"]]}
    columns = {"instruction": "task", "input": "context", "output": "response", "history": "past"}
    assert [message.content for message in read_conversation(row, columns=columns)] == [
        "q1",
        "a1",
        "q\nc",
        "a",
    ]


def test_prompt_and_completion_as_text_need_no_template() -> None:
    assert read_row({"prompt": "2 + 2 =", "completion": " 4"}) == Continuation(PLACE, "2 + 2 =", " 4")


@pytest.mark.parametrize(
    ("row", "given"),
    [
        pytest.param({"prompt": "p", "completion": "c"}, "job\n\np", id="the job's"),
        pytest.param({"prompt": "p", "completion": "c", "system": "row"}, "row\n\np", id="the row's own"),
    ],
)
def test_a_system_text_stands_before_a_prompt(row: dict[str, object], given: str) -> None:
    assert read_row(row, system_prompt="job") == Continuation(PLACE, given, "c")


def test_prompt_and_completion_as_messages_are_a_conversation_of_which_the_completion_is_learned() -> None:
    row = {
        "prompt": [
            {"role": "user", "content": "q1"},
            {"role": "assistant", "content": "a1"},
            {"role": "user", "content": "q"},
        ],
        "completion": [{"role": "assistant", "content": "a"}],
    }
    messages = read_conversation(row)
    assert [message.content for message in messages] == ["q1", "a1", "q", "a"]
    assert [message.is_learned for message in messages if message.role == "assistant"] == [False, True]


INPUT_TARGET_ROW: dict[str, object] = {"input_text": "q", "target_text": "a"}
ALPACA_ROW: dict[str, object] = {"instruction": "q", "output": "a", "history": []}
COMPLETION_ROW: dict[str, object] = {"prompt": "p", "completion": "c"}
BAD: dict[str, tuple[dict[str, object], dict[str, object], str]] = {
    "no target": (
        INPUT_TARGET_ROW,
        {"input_text": "q"},
        "column target_text is missing (it has input_text)",
    ),
    "no input": (
        INPUT_TARGET_ROW,
        {"target_text": "a", "x": 1},
        "column input_text is missing (it has target_text, x)",
    ),
    "no columns": (INPUT_TARGET_ROW, {}, "column input_text is missing (it has no columns)"),
    "another format": (
        INPUT_TARGET_ROW,
        {"messages": []},
        "column input_text is missing (it has messages)",
    ),
    "an empty target": (
        INPUT_TARGET_ROW,
        {"input_text": "q", "target_text": ""},
        "column target_text is empty",
    ),
    "a blank input": (
        INPUT_TARGET_ROW,
        {"input_text": "\n", "target_text": "a"},
        "column input_text is empty",
    ),
    "a target that is a number": (
        INPUT_TARGET_ROW,
        {"input_text": "q", "target_text": 5},
        "column target_text is a number; it must be text",
    ),
    "a target that is null": (
        INPUT_TARGET_ROW,
        {"input_text": "q", "target_text": None},
        "column target_text is null; it must be text",
    ),
    "no instruction": (
        ALPACA_ROW,
        {"input": "q", "output": "a"},
        "column instruction is missing (it has input, output)",
    ),
    "neither instruction nor input": (
        ALPACA_ROW,
        {"instruction": "", "input": " ", "output": "a"},
        "column instruction is empty",
    ),
    "an empty output": (ALPACA_ROW, {"instruction": "q", "output": " "}, "column output is empty"),
    "a history that is text": (
        ALPACA_ROW,
        {"instruction": "q", "output": "a", "history": "before"},
        "column history is text that is not JSON",
    ),
    "a history that is an object": (
        ALPACA_ROW,
        {"instruction": "q", "output": "a", "history": {"q": "a"}},
        "column history is an object; it must be a list of [question, answer]",
    ),
    "a history of questions alone": (
        ALPACA_ROW,
        {"instruction": "q", "output": "a", "history": [["q1"]]},
        "item 1 of column history must be [question, answer]",
    ),
    "a history of numbers": (
        ALPACA_ROW,
        {"instruction": "q", "output": "a", "history": [[1, 2]]},
        "item 1 of column history is a number; it must be text",
    ),
    "a history with an empty question": (
        ALPACA_ROW,
        {"instruction": "q", "output": "a", "history": [["", "a1"]]},
        "the question of item 1 of column history is empty",
    ),
    "an empty prompt": (COMPLETION_ROW, {"prompt": "", "completion": "c"}, "column prompt is empty"),
    "an empty completion": (
        COMPLETION_ROW,
        {"prompt": "p", "completion": " "},
        "column completion is empty",
    ),
    "a prompt of messages and a completion of text": (
        COMPLETION_ROW,
        {"prompt": [{"role": "user", "content": "q"}], "completion": "c"},
        "prompt is a list and completion is text; both must be text, or both lists of messages",
    ),
    "a completion without an answer": (
        COMPLETION_ROW,
        {
            "prompt": [{"role": "user", "content": "q"}],
            "completion": [{"role": "user", "content": "q"}],
        },
        "no message is the assistant's, so there is nothing to learn",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_says_what_is_wrong(case: str) -> None:
    first_row, row, sentence = BAD[case]
    assert read_problem(row, first_row=first_row) == sentence


def test_a_task_that_needs_labels_refuses_other_formats() -> None:
    reason = read_problem(INPUT_TARGET_ROW, task=Task.SEQUENCE_CLASSIFICATION, labels=("a", "b"))
    assert reason == (
        "format InputTarget has no label, which task SequenceClassification needs; set format: "
        "Classification, or write {text, label}"
    )
