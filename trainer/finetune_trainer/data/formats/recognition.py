"""Decides how the rows of a source are read: as the job says, else as most of its first rows look.

Rows may fit several formats; each row counts for the first of this table that it fits, and the format of most rows
wins:

| format | a row of it has |
|---|---|
| Messages | a list `messages` whose items have `role` or `content` |
| ShareGPT | a list `conversations` (`conversation`, `messages`) whose items have `from` and `value` |
| Dialogue | a list `dialogue_sequence` (`conversations`, `conversation`, `dialogue`) whose items have a speaker
  (`role`, `from`, `speaker`) and what was said (`content`, `text`, `value`) |
| PromptCompletion | `prompt` and `completion` |
| Alpaca | `instruction` and `output` |
| InputTarget | one of `input_text`, `question`, `query`, and one of `target_text`, `answer`, `response` |
| Classification | a text `text` and a `label` |
| Dialogue | a text `text` that begins with a speaker (`User:`, `用户：`), and in which user and assistant speak |
| Text | a text `text` |

So a row of turns stays one if it has a `prompt` besides, and a text with a label is classified. Other columns are
ignored. Where `columns` names some, only formats that read those are thought of, under those names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from finetune_api.spec import ColumnMapping, DataFormat, DataSource
from finetune_trainer.data.formats.columns import (
    COLUMNS_OF_FORMAT,
    DIALOGUE_LIST,
    DIALOGUE_TEXT,
    Columns,
    FormatColumns,
    Purpose,
    RowFormat,
    resolve_columns,
)
from finetune_trainer.data.formats.plain_turns import has_plain_turns
from finetune_trainer.data.formats.row_values import Row, column_names, cut
from finetune_trainer.data.formats.turns import CONTENT_KEYS, ROLE_KEYS, as_turn_list
from finetune_trainer.errors import DataError

# How many rows are looked at.
FIRST_ROWS = 32


@dataclass(frozen=True, slots=True)
class _Shape:
    """One line of the table: a format, its columns, and what tells its rows from others."""

    format: DataFormat
    reads: FormatColumns
    fits: Callable[[Row, Columns], bool]
    describe: Callable[[Columns], str]


@dataclass(frozen=True, slots=True)
class _Candidate:
    shape: _Shape
    columns: Columns


def decide_format(settings: DataSource, label: str, first_rows: Sequence[Mapping[str, object]]) -> RowFormat:
    """Decide how a source is read, from its settings and its first rows that are objects.

    Raises DataError where no format fits, or a column that the format needs is in none of these rows.
    """
    rows = first_rows[:FIRST_ROWS]
    named = _named(settings.columns)
    candidates = [
        _Candidate(shape, resolve_columns(shape.reads, named, rows))
        for shape in _SHAPES
        if settings.format in (DataFormat.AUTO, shape.format) and set(named) <= set(shape.reads.purposes)
    ]
    if not candidates:
        raise DataError(_no_format_reads(label, settings, named))
    counted = Counter(place for row in rows if (place := _first_fitting(row, candidates)) is not None)
    if not counted:
        return _without_a_fitting_row(settings, label, named, candidates, rows)
    # Most rows; of equally many the one that stands first in the table.
    place, count = min(counted.items(), key=lambda item: (-item[1], item[0]))
    chosen = candidates[place]
    because = f"{_how_many(count, len(rows))} {chosen.shape.describe(chosen.columns)}"
    return _row_format(settings, label, named, chosen, rows, because)


def _first_fitting(row: Row, candidates: Sequence[_Candidate]) -> int | None:
    return next(
        (place for place, candidate in enumerate(candidates) if candidate.shape.fits(row, candidate.columns)),
        None,
    )


def _row_format(
    settings: DataSource,
    label: str,
    named: Mapping[Purpose, str],
    chosen: _Candidate,
    rows: Sequence[Row],
    because: str,
) -> RowFormat:
    name = chosen.shape.format
    if settings.format is DataFormat.AUTO:
        decided = f"recognised as {name}, because {because}"
    else:
        decided = f"{name}, as format says; {because}"
    missing = [
        f"no row of these has the column {cut(column)} (columns.{purpose})"
        for purpose, column in named.items()
        if rows and not any(column in row for row in rows)
    ]
    return RowFormat(name, chosen.columns, "; ".join([f"{label}: {decided}", *missing]))


# --- where no row fits -----------------------------------------------------------------------------------------


def _without_a_fitting_row(
    settings: DataSource,
    label: str,
    named: Mapping[Purpose, str],
    candidates: Sequence[_Candidate],
    rows: Sequence[Row],
) -> RowFormat:
    """Take the format that was named, so that each row says what is wrong with it; refuse where none was."""
    if settings.format is DataFormat.AUTO and not named:
        raise DataError(
            f"{label}: the format was not recognised; {_seen(rows)}. Write {{messages: [{{role, content}}]}} or "
            "{input_text, target_text}, or set format and columns of this source."
        )
    nearest = min(candidates, key=lambda candidate: len(_missing_columns(candidate, rows)))
    missing = _missing_columns(nearest, rows)
    if missing:
        raise DataError(_missing_everywhere(label, named, nearest, missing, rows))
    because = f"columns {', '.join(_required_columns(nearest))}"
    return _row_format(settings, label, named, nearest, rows, because)


def _missing_columns(candidate: _Candidate, rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    return [column for column in _required_columns(candidate) if not any(column in row for row in rows)]


def _required_columns(candidate: _Candidate) -> list[str]:
    return [cast(str, getattr(candidate.columns, purpose)) for purpose in candidate.shape.reads.required]


def _missing_everywhere(
    label: str,
    named: Mapping[Purpose, str],
    nearest: _Candidate,
    missing: Sequence[str],
    rows: Sequence[Row],
) -> str:
    says = [f"columns.{purpose}" for purpose, column in named.items() if column in missing]
    because = f" ({' and '.join(says)})" if says else ""
    columns = f"the column{'s' if len(missing) > 1 else ''} {' and '.join(map(cut, missing))}"
    return (
        f"{label}: format {nearest.shape.format} needs {columns}{because}, but {_seen(rows)}. "
        "Set columns of this source to the names they have, or choose another format."
    )


def _no_format_reads(label: str, settings: DataSource, named: Mapping[Purpose, str]) -> str:
    columns = " and ".join(f"columns.{purpose}" for purpose in named)
    what = (
        "no format reads" if settings.format is DataFormat.AUTO else f"format {settings.format} does not read"
    )
    together = " together" if len(named) > 1 else ""
    return f"{label}: {what} {columns}{together}. Set format, and name only the columns that it reads."


def _seen(rows: Sequence[Row]) -> str:
    if not rows:
        return "no row of it is an object with columns"
    columns = column_names({name: None for row in rows for name in row})
    return f"its first row has {columns}" if len(rows) == 1 else f"its first {len(rows)} rows have {columns}"


def _how_many(count: int, rows: int) -> str:
    return "its first row has" if rows == 1 else f"{count} of its first {rows} rows have"


def _named(columns: ColumnMapping | None) -> dict[Purpose, str]:
    if columns is None:
        return {}
    return cast(dict[Purpose, str], columns.model_dump(exclude_none=True))


# --- the table -------------------------------------------------------------------------------------------------


def _has_turns(row: Row, columns: Columns, speaker: Sequence[str], said: Sequence[str]) -> bool:
    turns = as_turn_list(row.get(cast(str, columns.messages)))
    first = turns[0] if turns else None
    return (
        isinstance(first, dict) and any(key in first for key in speaker) and any(key in first for key in said)
    )


def _fits_messages(row: Row, columns: Columns) -> bool:
    # Either is enough: the reader says what is missing.
    either = ("role", "content")
    return _has_turns(row, columns, either, either)


def _fits_share_gpt(row: Row, columns: Columns) -> bool:
    return _has_turns(row, columns, ("from",), ("value",))


def _fits_dialogue(row: Row, columns: Columns) -> bool:
    return _has_turns(row, columns, ROLE_KEYS, CONTENT_KEYS)


def _fits_plain_dialogue(row: Row, columns: Columns) -> bool:
    text = row.get(cast(str, columns.text))
    return isinstance(text, str) and has_plain_turns(text)


def _fits_classification(row: Row, columns: Columns) -> bool:
    return isinstance(row.get(cast(str, columns.text)), str) and columns.label in row


def _fits_text(row: Row, columns: Columns) -> bool:
    return isinstance(row.get(cast(str, columns.text)), str)


def _has_all(*purposes: Purpose) -> Callable[[Row, Columns], bool]:
    return lambda row, columns: all(getattr(columns, purpose) in row for purpose in purposes)


def _both(first: Purpose, second: Purpose) -> Callable[[Columns], str]:
    return lambda columns: f"the columns {cut(getattr(columns, first))} and {cut(getattr(columns, second))}"


def _turns(items: str) -> Callable[[Columns], str]:
    return lambda columns: f"a list named {cut(str(columns.messages))} whose items have {items}"


def _only(format_name: DataFormat) -> FormatColumns:
    [reads] = COLUMNS_OF_FORMAT[format_name]
    return reads


def _shape(
    name: DataFormat, fits: Callable[[Row, Columns], bool], describe: Callable[[Columns], str]
) -> _Shape:
    return _Shape(name, _only(name), fits, describe)


_SHAPES = (
    _shape(DataFormat.MESSAGES, _fits_messages, _turns("role and content")),
    _shape(DataFormat.SHARE_GPT, _fits_share_gpt, _turns("from and value")),
    _Shape(DataFormat.DIALOGUE, DIALOGUE_LIST, _fits_dialogue, _turns("a speaker and what was said")),
    _shape(DataFormat.PROMPT_COMPLETION, _has_all("prompt", "completion"), _both("prompt", "completion")),
    _shape(DataFormat.ALPACA, _has_all("instruction", "output"), _both("instruction", "output")),
    _shape(DataFormat.INPUT_TARGET, _has_all("input", "target"), _both("input", "target")),
    _shape(DataFormat.CLASSIFICATION, _fits_classification, _both("text", "label")),
    _Shape(
        DataFormat.DIALOGUE,
        DIALOGUE_TEXT,
        _fits_plain_dialogue,
        lambda columns: f"a text named {cut(str(columns.text))} whose lines begin with a speaker",
    ),
    _shape(DataFormat.TEXT, _fits_text, lambda columns: f"a text named {cut(str(columns.text))}"),
)
