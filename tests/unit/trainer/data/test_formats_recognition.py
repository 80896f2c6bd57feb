"""How a source is read is decided by what most of its first rows have, and explained."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.spec import DataFormat, DataSource
from finetune_trainer.data.formats import RowFormat, decide_format
from finetune_trainer.errors import DataError

TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
SHARE_GPT_TURNS = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
Rows = list[dict[str, object]]
QUESTIONS: Rows = [{"question": "q", "answer": "a"}]
QUERIES: Rows = [{"query": "q", "response": "a"}]


def decide(rows: Rows, **settings: Any) -> RowFormat:
    source = DataSource.model_validate({"source": "s3://data/rows.jsonl", **settings})
    return decide_format(source, "rows.jsonl", rows)


RECOGNISED: dict[str, tuple[dict[str, object], DataFormat, str]] = {
    "messages": (
        {"messages": TURNS},
        DataFormat.MESSAGES,
        "a list named messages whose items have role and content",
    ),
    "messages as JSON text, as CSV has them": (
        {"messages": '[{"role": "user", "content": "q"}]'},
        DataFormat.MESSAGES,
        "a list named messages whose items have role and content",
    ),
    "messages beside a prompt": (
        {"prompt": "q", "messages": TURNS, "prompt_id": 1},
        DataFormat.MESSAGES,
        "a list named messages whose items have role and content",
    ),
    "conversations of from and value": (
        {"conversations": SHARE_GPT_TURNS},
        DataFormat.SHARE_GPT,
        "a list named conversations whose items have from and value",
    ),
    "from and value in a list named messages": (
        {"messages": SHARE_GPT_TURNS},
        DataFormat.SHARE_GPT,
        "a list named messages whose items have from and value",
    ),
    "conversations of role and content": (
        {"conversations": TURNS, "domain": "shop"},
        DataFormat.DIALOGUE,
        "a list named conversations whose items have a speaker and what was said",
    ),
    "a dialogue sequence": (
        {"dialogue_sequence": [{"role": "user", "text": "q"}]},
        DataFormat.DIALOGUE,
        "a list named dialogue_sequence whose items have a speaker and what was said",
    ),
    "prompt and completion": (
        {"prompt": "q", "completion": "a"},
        DataFormat.PROMPT_COMPLETION,
        "the columns prompt and completion",
    ),
    "instruction and output": (
        {"instruction": "do", "input": "", "output": "a"},
        DataFormat.ALPACA,
        "the columns instruction and output",
    ),
    "input_text and target_text": (
        {"input_text": "q", "target_text": "a"},
        DataFormat.INPUT_TARGET,
        "the columns input_text and target_text",
    ),
    "question and answer": (
        {"question": "q", "answer": "a", "id": 5},
        DataFormat.INPUT_TARGET,
        "the columns question and answer",
    ),
    "query and response": (
        {"query": "q", "response": "a"},
        DataFormat.INPUT_TARGET,
        "the columns query and response",
    ),
    "text and label": (
        {"text": "good", "label": 1},
        DataFormat.CLASSIFICATION,
        "the columns text and label",
    ),
    "turns in one text": (
        {"text": "用户：在吗\n助手：在的"},
        DataFormat.DIALOGUE,
        "a text named text whose lines begin with a speaker",
    ),
    "a text": ({"text": "Once upon a time."}, DataFormat.TEXT, "a text named text"),
    "a text in which a user is mentioned": (
        {"text": "User: a person who uses something."},
        DataFormat.TEXT,
        "a text named text",
    ),
}


@pytest.mark.parametrize("case", RECOGNISED)
def test_a_row_is_recognised_and_the_reason_is_told(case: str) -> None:
    row, expected, because = RECOGNISED[case]
    found = decide([row])
    assert found.format is expected
    assert found.explanation == f"rows.jsonl: recognised as {expected}, because its first row has {because}"


def test_the_explanation_counts_the_rows() -> None:
    found = decide([{"conversations": SHARE_GPT_TURNS}] * 40)
    assert found.explanation == (
        "rows.jsonl: recognised as ShareGPT, because 32 of its first 32 rows have a list named conversations whose items "
        "have from and value"
    )


def test_the_format_of_most_rows_wins() -> None:
    rows: Rows = [{"text": "a title"}, {"junk": 1}, *QUESTIONS, *QUESTIONS, *QUESTIONS]
    found = decide(rows)
    assert found.format is DataFormat.INPUT_TARGET
    assert "3 of its first 5 rows have the columns question and answer" in found.explanation


def test_of_equally_many_rows_the_format_named_first_in_the_table_wins() -> None:
    rows: Rows = [{"question": "q", "answer": "a"}, {"messages": TURNS}]
    assert decide(rows).format is DataFormat.MESSAGES
    assert decide(rows[::-1]).format is DataFormat.MESSAGES


def test_columns_are_called_as_in_most_rows() -> None:
    rows: Rows = [{"question": "q", "answer": "a"}, *QUERIES, *QUERIES]
    columns = decide(rows).columns
    assert (columns.input, columns.target) == ("query", "response")


def test_named_columns_choose_among_the_formats_that_read_them() -> None:
    found = decide([{"frage": "q", "antwort": "a"}], columns={"input": "frage", "target": "antwort"})
    assert found.format is DataFormat.INPUT_TARGET
    assert found.explanation == (
        "rows.jsonl: recognised as InputTarget, because its first row has the columns frage and antwort"
    )


def test_named_columns_of_alpaca_are_recognised() -> None:
    row: dict[str, object] = {"instruction": "do", "context": "c", "response": "a"}
    found = decide([row], columns={"input": "context", "output": "response"})
    assert (found.format, found.columns.input, found.columns.output) == (
        DataFormat.ALPACA,
        "context",
        "response",
    )


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        pytest.param({"body": "x", "label": "a"}, DataFormat.CLASSIFICATION, id="with a label"),
        pytest.param({"body": "User: q\nAssistant: a"}, DataFormat.DIALOGUE, id="with turns"),
        pytest.param({"body": "x"}, DataFormat.TEXT, id="plain"),
    ],
)
def test_a_named_text_column_is_still_looked_into(row: dict[str, object], expected: DataFormat) -> None:
    assert decide([row], columns={"text": "body"}).format is expected


def test_a_format_that_is_named_is_not_guessed() -> None:
    found = decide([{"text": "good", "label": "x"}], format="Text")
    assert found.format is DataFormat.TEXT
    assert found.explanation == "rows.jsonl: Text, as format says; its first row has a text named text"


def test_a_format_that_is_named_takes_rows_whose_values_are_wrong() -> None:
    # Each row then says what is wrong with it.
    found = decide([{"messages": "hello"}], format="Messages")
    assert found.columns.messages == "messages"
    assert found.explanation == "rows.jsonl: Messages, as format says; columns messages"


def test_a_dialogue_that_is_named_may_be_a_list_or_a_text() -> None:
    turns = decide([{"dialogue_sequence": [{"role": "user", "text": "q"}]}], format="Dialogue")
    text = decide([{"text": "User: q\nAssistant: a"}], format="Dialogue")
    assert (turns.columns.messages, text.columns.text) == ("dialogue_sequence", "text")


def test_an_optional_column_that_no_row_has_is_mentioned() -> None:
    found = decide([{"question": "q", "answer": "a"}], columns={"system": "rules"})
    assert found.explanation.endswith("; no row of these has the column rules (columns.system)")


REFUSED: dict[str, tuple[Rows, dict[str, Any], str]] = {
    "columns that nobody knows": (
        [{"foo": 1, "bar": "x"}, {"foo": 2, "baz": "x"}],
        {},
        "rows.jsonl: the format was not recognised; its first 2 rows have bar, baz, foo. Write {messages: [{role, "
        "content}]} or {input_text, target_text}, or set format and columns of this source.",
    ),
    "a named column that is in no row": (
        [{"question": "q", "answer": "a"}],
        {"columns": {"input": "frage"}},
        "rows.jsonl: format InputTarget needs the column frage (columns.input), but its first row has answer, question. "
        "Set columns of this source to the names they have, or choose another format.",
    ),
    "a named format whose columns are in no row": (
        [{"question": "q", "answer": "a"}],
        {"format": "Alpaca"},
        "rows.jsonl: format Alpaca needs the columns instruction and output, but its first row has answer, question. "
        "Set columns of this source to the names they have, or choose another format.",
    ),
    "columns of different formats": (
        [{"question": "q", "answer": "a"}],
        {"columns": {"prompt": "question", "target": "answer"}},
        "rows.jsonl: no format reads columns.target and columns.prompt together. Set format, and name only the columns "
        "that it reads.",
    ),
    "a column that the named format does not read": (
        [{"question": "q", "answer": "a"}],
        {"format": "InputTarget", "columns": {"prompt": "question"}},
        "rows.jsonl: format InputTarget does not read columns.prompt. Set format, and name only the columns that it "
        "reads.",
    ),
    "no row": (
        [],
        {},
        "rows.jsonl: the format was not recognised; no row of it is an object with columns. Write {messages: [{role, "
        "content}]} or {input_text, target_text}, or set format and columns of this source.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_source_that_cannot_be_read_says_what_it_has_and_what_to_set(case: str) -> None:
    rows, settings, sentence = REFUSED[case]
    with pytest.raises(DataError) as caught:
        decide(rows, **settings)
    assert caught.value.message == sentence


def test_a_row_format_travels_between_processes() -> None:
    import pickle

    found = decide([{"question": "q", "answer": "a"}])
    assert pickle.loads(pickle.dumps(found)) == found
