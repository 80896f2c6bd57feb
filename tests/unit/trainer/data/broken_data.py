"""A corpus of broken data sets, as users bring them, each with the words of the sentence that must refuse it."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.unit.trainer.data.preparing import pair


@dataclass(frozen=True)
class Broken:
    """A file, what the job says beside it, and what must be said: all these words, and the file's name."""

    name: str
    content: bytes
    words: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)


def lines(*rows: object) -> bytes:
    """Rows as JSON lines; text is taken as it is."""
    written = (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
    return "".join(f"{row}\n" for row in written).encode()


def chat(*turns: tuple[str, object]) -> dict[str, object]:
    """A row in Messages format."""
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def _parquet(columns: dict[str, list[Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def _zst(content: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(content))


def _zip(content: bytes, name: str = "rows.jsonl") -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr(name, content)
    return sink.getvalue()


def _tar(content: bytes) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        member = tarfile.TarInfo("rows.jsonl")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return sink.getvalue()


GOOD = lines(*[pair(f"question {number}") for number in range(400)])
_SOURCE = "source"
_NAN_LABEL = '{"text": "bad", "label": NaN}'


def formatted(name: str, **columns: str) -> dict[str, Any]:
    """A source's settings."""
    return {_SOURCE: {"format": name, **({"columns": columns} if columns else {})}}


BROKEN: dict[str, Broken] = {
    # --- files
    "an empty file": Broken("rows.jsonl", b"", ("empty",)),
    "blank lines alone": Broken("rows.jsonl", b"\n \n\n", ("blank lines",)),
    "an empty list": Broken("rows.json", b"[]", ("no rows",)),
    "a truncated gzip file": Broken("rows.jsonl.gz", gzip.compress(GOOD)[:-20], ("gzip", "cut short")),
    "a damaged gzip file": Broken("rows.jsonl.gz", b"\x1f\x8b\x08\x00" + b"\x7f" * 200, ("gzip", "damaged")),
    "a truncated zstd file": Broken("rows.jsonl.zst", _zst(GOOD)[:-20], ("zstd",)),
    "an HTML error page": Broken("rows.jsonl", b"<!DOCTYPE html>\n<html><head><title>502</title></head></html>", ("HTML",)),
    "an error answer of a store": Broken(
        "rows.jsonl", b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', ("error answer of an object store", "AccessDenied"),
    ),
    "a ZIP archive": Broken("rows.jsonl", _zip(GOOD), ("ZIP", "npack")),
    "a spreadsheet": Broken("rows.csv", _zip(b"<x/>", "xl/workbook.xml"), (".xlsx",)),
    "a tar archive": Broken("rows.jsonl", _tar(GOOD), ("tar", "npack")),
    "a PDF": Broken("rows.txt", b"%PDF-1.7\n%\xe2\xe3\n1 0 obj\n", ("PDF",)),
    "a pickle": Broken("rows.jsonl", pickle.dumps([{"a": 1}], protocol=4), ("pickle",)),
    "a Git LFS pointer": Broken(
        "rows.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 5\n", ("Git LFS",),
    ),
    "an unreadable encoding": Broken("rows.jsonl", b'{"question": "\xff\xfe\x81", "answer": "\x81\x39"}\n' * 3, ("UTF-8",)),
    "a line of ten megabytes": Broken(
        "rows.jsonl", lines(pair(), pair("x" * 10_000_000)), ("line 2", "MiB"),
    ),
    "a parquet file without its end": Broken("rows.parquet", _parquet({"question": ["q"] * 50, "answer": ["a"] * 50})[:-12], ("Parquet",)),
    "a parquet file of numbers": Broken("rows.parquet", _parquet({"a": [1, 2], "b": [3, 4]}), ("not recognised", "a, b")),
    "parquet cells of bytes": Broken(
        "rows.parquet", _parquet({"question": ["q"], "answer": [b"\xff\x00"]}), ("row 1", "answer"),
    ),
    "a CSV file with a header alone": Broken("rows.csv", b"question,answer\n", ("header",)),
    "a CSV row with too many cells": Broken("rows.csv", b"question,answer\nq,a\nq,a,b,c\n", ("line 3", "cells")),
    "a numpy file": Broken("rows.jsonl", np.lib.format.magic(1, 0) + b"\x00" * 80, ("rows.jsonl",)),
    # --- JSON
    "half an object": Broken("rows.jsonl", lines(pair(), '{"question": "q", "answ'), ("line 2", "not JSON")),
    "an object over several lines": Broken("rows.jsonl", b'{\n  "question": "q",\n  "answer": "a"\n}\n', ("several lines",)),
    "single quotes": Broken("rows.jsonl", lines(pair(), "{'question': 'q', 'answer': 'a'}"), ("line 2", "not JSON")),
    "numbers instead of objects": Broken("rows.jsonl", lines(1, 2, 3), ("line 1", "object")),
    "a list in a line": Broken("rows.jsonl", lines(pair(), [1, 2]), ("line 2", "list")),
    "a list that never ends": Broken("rows.json", b'[{"question": "q", "answer": "a"},\n', ("rows.json",)),
    "half a surrogate pair": Broken(
        "rows.jsonl", lines(pair(), '{"question": "\\ud83d", "answer": "a"}'), ("line 2", "surrogate"),
    ),
    # --- columns and formats
    "columns that nobody knows": Broken("rows.jsonl", lines({"foo": "a", "bar": "b"}), ("not recognised", "bar, foo", "columns")),
    "a named column that is not there": Broken(
        "rows.jsonl", lines({"q": "a", "reply": "b"}), ("answer_text",), formatted("InputTarget", input="q", target="answer_text"),
    ),
    "a row without its answer": Broken("rows.jsonl", lines(pair(), {"question": "q"}), ("line 2", "answer is missing")),
    "an empty question": Broken("rows.jsonl", lines(pair(), pair("  ")), ("line 2", "question is empty")),
    "a null answer": Broken("rows.jsonl", lines(pair(), {"question": "q", "answer": None}), ("line 2", "null")),
    "an answer that is a number": Broken("rows.jsonl", lines(pair(), {"question": "q", "answer": 5}), ("line 2", "number")),
    "another shape in the middle": Broken(
        "rows.jsonl", lines(*[pair()] * 40, {"instruction": "do", "output": "done"}), ("line 41", "question is missing"),
    ),
    "an empty Alpaca output": Broken(
        "rows.jsonl", lines({"instruction": "do", "input": "", "output": ""}), ("line 1", "output is empty"),
    ),
    "an Alpaca history of one": Broken(
        "rows.jsonl", lines({"instruction": "do", "output": "done", "history": [["only a question"]]}), ("line 1", "history"),
    ),
    # --- conversations
    "no assistant turn": Broken("rows.jsonl", lines(chat(("user", "hi"))), ("line 1", "assistant")),
    "an unknown role": Broken("rows.jsonl", lines(chat(("wizard", "hi"), ("assistant", "yo"))), ("line 1", "'wizard'")),
    "a turn without content": Broken(
        "rows.jsonl", lines({"messages": [{"role": "user"}, {"role": "assistant", "content": "a"}]}), ("line 1", "content"),
    ),
    "messages that are text": Broken("rows.jsonl", lines({"messages": "user: hi"}), ("messages",), formatted("Messages")),
    "no message at all": Broken("rows.jsonl", lines({"messages": []}), ("messages is empty",), formatted("Messages")),
    "an image in a message": Broken(
        "rows.jsonl",
        lines(chat(("user", [{"type": "image_url", "image_url": {"url": "x"}}]), ("assistant", "a"))), ("image_url",),
    ),
    "an unknown speaker in ShareGPT": Broken(
        "rows.jsonl",
        lines({"conversations": [{"from": "robot-9", "value": "hi"}, {"from": "gpt", "value": "yo"}]}), ("'robot-9'",),
    ),
    "a dialogue without speakers": Broken(
        "rows.jsonl", lines({"text": "just some words without any speaker"}), ("speaker",), formatted("Dialogue"),
    ),
    # --- labels
    "a label that is NaN": Broken("rows.jsonl", lines({"text": "good", "label": "a"}, _NAN_LABEL), ("line 2", "NaN")),
    "an empty label": Broken("rows.csv", b"text,label\ngood,a\nbad,\n", ("line 3", "label")),
    "no labels": Broken("rows.jsonl", lines({"text": "good"}), ("label",), formatted("Classification")),
    # --- what is left
    "rows that are all too long": Broken("rows.jsonl", lines(pair("word " * 3000)), ("too long", "maxLength")),
    "nothing after cleaning": Broken(
        "rows.jsonl", lines(pair("<br><br>", "<p></p>")), ("No row of 1 is left", "noise"),
        {"preparation": {"noise": ["HTML"]}},
    ),
    "nothing but symbols": Broken(
        "rows.jsonl", lines(pair("#### ---- ====", "*** +++ ///")), ("No row of 1 is left",),
        {"preparation": {"noise": ["Symbols"]}},
    ),
    "every row matches an expression": Broken(
        "rows.jsonl", lines(pair("spam spam")), ("No row of 1 is left", "regex"),
        {"preparation": {"regex": [{"pattern": "spam", "action": "DropRow"}]}},
    ),
    "too many invalid rows": Broken(
        "rows.jsonl", lines(pair(), pair(), "{oops", "{oops"), ("maxInvalidFraction", "50.0%"),
        {"preparation": {"invalidRows": "Drop"}},
    ),
    "a validation part of a single row": Broken(
        "rows.jsonl", lines(pair()), ("validation.fraction",), {"validation": {"fraction": 0.1}},
    ),
}  # fmt: skip
