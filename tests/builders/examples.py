"""Rows as a source has them, read the way a worker process reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune_api.spec import DataSource, Task
from finetune_trainer.data.formats import FormatContext, decide_format, read_example
from finetune_trainer.data.rows import Conversation, Example, Message, Place, RawRow, RowProblem

PLACE = Place("rows.jsonl", "line", 7)


def read_row(
    row: object,
    *,
    first_row: dict[str, object] | None = None,
    task: Task = Task.CAUSAL_LM,
    system_prompt: str | None = None,
    labels: Sequence[str] = (),
    **settings: Any,
) -> Example | RowProblem:
    """Read a row as line 7 of a source whose first row is `first_row`, or this row itself; `settings` are the source's."""
    first = first_row if first_row is not None else row
    source = DataSource.model_validate({"source": "s3://data/rows.jsonl", **settings})
    row_format = decide_format(source, "rows.jsonl", [first] if isinstance(first, dict) else [])
    context = FormatContext(task, system_prompt, tuple(labels))
    return read_example(RawRow(PLACE, row), row_format, context)


def read_conversation(row: object, **changes: Any) -> tuple[Message, ...]:
    """The messages of a row that is a conversation."""
    example = read_row(row, **changes)
    assert isinstance(example, Conversation), example
    return example.messages


def read_problem(row: object, **changes: Any) -> str:
    """Why a row cannot be used."""
    problem = read_row(row, **changes)
    assert isinstance(problem, RowProblem), problem
    assert problem.place == PLACE
    return problem.reason
