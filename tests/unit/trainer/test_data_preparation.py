"""Rows through the whole preparation: which are used, which are dropped, and what is said about them."""

from __future__ import annotations

import array
import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.spec import Dataset
from finetune_trainer.data.masks import choose_renderer
from finetune_trainer.data.preparation import tokenized_rows
from finetune_trainer.data.prepared import PreparedRows, TokenizedRow, write_rows
from finetune_trainer.data.report import (
    DataReport,
    Tally,
    build_length_report,
    build_report,
    describe_example,
)
from finetune_trainer.data.sources import LocalSource
from finetune_trainer.data.tokenization import ModelTokenizer, load_tokenizer
from finetune_trainer.errors import DataError
from tests.builders.model_folders import CHATML, write_model_folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ModelTokenizer:
    return load_tokenizer(write_model_folder(tmp_path_factory.mktemp("model")))


def prepare(
    tokenizer: ModelTokenizer,
    tmp_path: Path,
    *sources: list[object],
    template: str = CHATML,
    **preparation: Any,
) -> tuple[list[TokenizedRow], Tally]:
    settings = [{"source": f"s3://data/{number}.jsonl"} for number in range(len(sources))]
    dataset = Dataset.model_validate({"train": settings, "preparation": preparation})
    local = []
    for number, (rows, source) in enumerate(zip(sources, dataset.train, strict=True)):
        path = tmp_path / str(number)
        lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
        path.write_text("".join(f"{line}\n" for line in lines))
        local.append(LocalSource(str(source.source), source, path))
    tally = Tally()
    renderer = choose_renderer(template, "the model", tokenizer.special_tokens, dataset.loss_on)
    return list(tokenized_rows(local, dataset, renderer, tokenizer, tally)), tally


def row(question: str = "q", answer: str = "a") -> dict[str, object]:
    return {"question": question, "answer": answer}


def test_the_rows_of_all_sources_come_in_order_each_in_its_own_format(
    tokenizer: ModelTokenizer, tmp_path: Path
) -> None:
    chat = {"messages": [{"role": "user", "content": "m"}, {"role": "assistant", "content": "n"}]}
    rows, tally = prepare(tokenizer, tmp_path, [row("a"), row("b")], [chat])
    texts = [tokenizer.decode(found.input_ids) for found in rows]
    assert [text.partition("\n")[2][0] for text in texts] == ["a", "b", "m"]
    assert [source.format.split(": ")[1].split(",")[0] for source in tally.sources] == [
        "recognised as InputTarget",
        "recognised as Messages",
    ]


def test_more_rows_than_a_batch_keep_their_order(tokenizer: ModelTokenizer, tmp_path: Path) -> None:
    rows, tally = prepare(tokenizer, tmp_path, [row(f"number {number}") for number in range(1200)])
    assert tally.rows_used == 1200
    assert "number 1199<" in tokenizer.decode(rows[-1].input_ids)


def test_invalid_rows_end_the_job_with_the_first_five_and_the_total(
    tokenizer: ModelTokenizer, tmp_path: Path
) -> None:
    rows: list[object] = [row(), *["{"] * 6, {"question": "q"}]
    with pytest.raises(DataError) as caught:
        prepare(tokenizer, tmp_path, rows)
    message = caught.value.message
    assert message.startswith(
        "7 of 8 rows cannot be used (the first 5 of 7): s3://data/0.jsonl line 2: not JSON"
    )
    assert "line 6" in message
    assert "line 7" not in message
    assert message.endswith("or set dataset.preparation.invalidRows: Drop to leave such rows out.")


def test_problems_of_all_sources_are_told_at_once(tokenizer: ModelTokenizer, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"2 of 4 rows cannot be used: s3://data/0.jsonl line 2: .*s3://data/1.jsonl line 1: "
    ):
        prepare(tokenizer, tmp_path, [row(), "{"], ["{", row()])


def test_invalid_rows_are_dropped_and_counted_where_the_job_says_so(
    tokenizer: ModelTokenizer, tmp_path: Path
) -> None:
    rows, tally = prepare(tokenizer, tmp_path, ["{", 5, row(), {"question": "q"}], invalidRows="Drop")
    assert len(rows) == 1
    assert (tally.rows_read, tally.rows_used, tally.invalid.rows, tally.rows_dropped) == (4, 1, 3, 3)
    assert tally.invalid.first[1] == "s3://data/0.jsonl line 2: the row is a number; it must be an object"


def test_a_row_that_the_template_refuses_is_an_invalid_row(tokenizer: ModelTokenizer, tmp_path: Path) -> None:
    strict = "{% if messages[0].content == 'bad' %}{{ raise_exception('no bad words') }}{% endif %}" + CHATML
    with pytest.raises(DataError, match=r"line 2: the chat template refuses it \(no bad words\)"):
        prepare(tokenizer, tmp_path, [row(), row("bad")], template=strict)


def test_rows_longer_than_max_length_are_dropped_and_named(tokenizer: ModelTokenizer, tmp_path: Path) -> None:
    rows, tally = prepare(tokenizer, tmp_path, [row(), row("x" * 100)], maxLength=32)
    assert len(rows) == 1
    assert tally.overlong.rows == 1
    assert tally.overlong.first[0].startswith("s3://data/0.jsonl line 2: 1")


def test_a_row_of_exactly_max_length_is_kept(tokenizer: ModelTokenizer, tmp_path: Path) -> None:
    [[tokens], _] = prepare(tokenizer, tmp_path, [row()])
    rows, _ = prepare(tokenizer, tmp_path, [row()], maxLength=len(tokens.input_ids))
    assert len(rows) == 1
    with pytest.raises(DataError, match=r"No row of 1 is left to train on: 1 longer than maxLength"):
        prepare(tokenizer, tmp_path, [row()], maxLength=len(tokens.input_ids) - 1)


def test_rows_are_truncated_and_those_left_with_nothing_to_learn_are_dropped(
    tokenizer: ModelTokenizer, tmp_path: Path
) -> None:
    data: list[object] = [row(answer="x" * 100), row("x" * 100)]
    rows, tally = prepare(tokenizer, tmp_path, data, maxLength=32, overlong="Truncate")
    assert [len(found.input_ids) for found in rows] == [32]
    assert (tally.rows_truncated, tally.nothing_to_learn.rows, tally.overlong.rows) == (2, 1, 0)
    assert tally.nothing_to_learn.first == ["s3://data/0.jsonl line 2: no learned token among its first 32"]


@pytest.mark.parametrize("content", [[], ["", " "]])
def test_a_source_without_rows_is_refused_by_name(
    tokenizer: ModelTokenizer, tmp_path: Path, content: list[object]
) -> None:
    with pytest.raises(DataError, match=r"s3://data/1.jsonl has no rows. Put rows into it, or remove it"):
        prepare(tokenizer, tmp_path, [row()], content)


def test_when_every_row_is_dropped_the_reasons_are_counted(tokenizer: ModelTokenizer, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        prepare(tokenizer, tmp_path, ["{", row("x" * 100)], maxLength=16, invalidRows="Drop")
    assert "No row of 2 is left to train on: 1 invalid, 1 longer than maxLength 16" in caught.value.message


def test_a_later_row_of_another_shape_is_invalid_not_a_new_format(
    tokenizer: ModelTokenizer, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"line 2: column question is missing \(it has messages\)"):
        prepare(tokenizer, tmp_path, [row(), {"messages": []}])


# --- report ----------------------------------------------------------------------------------------------------


def test_the_report_counts_and_shows_a_row_with_its_mask(tokenizer: ModelTokenizer, tmp_path: Path) -> None:
    _, tally = prepare(tokenizer, tmp_path, [row("Where is it?", "退款"), row(), "{"], invalidRows="Drop")
    report = build_report(tally, tokenizer, "by markers")
    assert (report.rows_read, report.rows_used, report.rows_dropped) == (3, 2, 1)
    assert report.tokens == sum(tally.lengths)
    assert 0 < report.learned_tokens < report.tokens
    shown = "<|im_start|>user⏎Where is it?<|im_end|>⏎<|im_start|>assistant⏎«退款<|im_end|>»⏎"
    assert describe_example(report.example) == shown
    assert DataReport.model_validate_json(report.model_dump_json()) == report


def test_percentiles_are_nearest_ranks_and_buckets_double() -> None:
    report = build_length_report(Tally(lengths=array.array("q", range(1, 101))).lengths)
    assert report.percentiles == {"p50": 50, "p90": 90, "p95": 95, "p99": 99}
    assert report.longest == 100
    assert [(bucket.up_to_tokens, bucket.rows) for bucket in report.histogram] == [
        (1, 1), (2, 1), (4, 2), (8, 4), (16, 8), (32, 16), (64, 32), (128, 36),
    ]  # fmt: skip


# --- the file --------------------------------------------------------------------------------------------------


def test_rows_come_back_from_their_file(tokenizer: ModelTokenizer, tmp_path: Path) -> None:
    rows, _ = prepare(tokenizer, tmp_path, [row("one"), row("two, longer"), row("three")])
    write_rows(tmp_path / "rows.safetensors", rows)
    back = PreparedRows(tmp_path / "rows.safetensors")
    assert len(back) == 3
    for number, expected in enumerate(rows):
        assert list(back.row_input_ids(number)) == list(expected.input_ids)
        assert bytes(back.row_learned(number)) == expected.learned
        assert back.row_length(number) == len(expected.input_ids)


def test_the_file_is_what_safetensors_reads(tokenizer: ModelTokenizer, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    rows, _ = prepare(tokenizer, tmp_path, [row("one"), row("two")])
    write_rows(tmp_path / "rows.safetensors", rows)
    columns = load_file(tmp_path / "rows.safetensors")
    assert {name: str(column.dtype) for name, column in columns.items()} == {
        "input_ids": "int32",
        "learned": "uint8",
        "offsets": "int64",
    }
    assert columns["offsets"].tolist() == [
        0,
        len(rows[0].input_ids),
        sum(len(found.input_ids) for found in rows),
    ]


def test_equal_rows_give_equal_bytes(tokenizer: ModelTokenizer, tmp_path: Path) -> None:
    for name in ("a", "b"):
        rows, _ = prepare(tokenizer, tmp_path, [row("one"), row("two")])
        write_rows(tmp_path / f"{name}.safetensors", rows)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
