"""Rows through the whole preparation: which are used, which are left out and why, and what is said about them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.spec import DataFormat, DataSource, LossOn, Preparation, Task
from finetune_trainer.data.digest import PREPARATION_VERSION
from finetune_trainer.data.encoding import EncoderSettings, ExampleEncoder
from finetune_trainer.data.formats import FormatContext, decide_format
from finetune_trainer.data.pipeline import DataRefused, chunks_of
from finetune_trainer.data.report import DataReport, describe_sample, describe_summary
from finetune_trainer.data.row_worker import Chunk, RowWorker, WorkerSettings
from finetune_trainer.data.rows import Place, RawRow, Split
from finetune_trainer.data.sources import LocalFile, LocalSource
from finetune_trainer.data.spool import Spool
from finetune_trainer.errors import DataError, UserError
from tests.builders.model_folders import CHATML, write_model_folder
from tests.unit.trainer.data.preparing import Preparer, pair


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def preparer(model: Path, tmp_path: Path) -> Preparer:
    return Preparer(model, tmp_path)


def refusal(preparer: Preparer, *arguments: Any, **changes: Any) -> str:
    with pytest.raises(DataError) as caught:
        preparer.prepare(*arguments, **changes)
    return caught.value.message


def local_source(folder: Path, rows: list[dict[str, object]]) -> LocalSource:
    path = folder / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    settings = DataSource(source="s3://data/rows.jsonl")
    return LocalSource(
        "rows.jsonl", "dataset.train[0]", settings, Split.TRAIN, (LocalFile("rows.jsonl", path),)
    )


def worker_settings(model: Path) -> WorkerSettings:
    row_format = decide_format(
        DataSource(source="s3://data/f", format=DataFormat.INPUT_TARGET), "f", [pair()]
    )
    return WorkerSettings(
        context=FormatContext(Task.CAUSAL_LM, None, ()),
        preparation=Preparation(),
        encoder=EncoderSettings(model, CHATML, "the model", LossOn.ASSISTANT, ()),
        formats=(row_format,),
        splits=(Split.TRAIN,),
        files=("f",),
        max_length=1024,
    )


def drop(**settings: Any) -> dict[str, Any]:
    return {"preparation": {"invalidRows": "Drop", "maxInvalidFraction": 1, **settings}}


# --- order and formats -----------------------------------------------------------------------------------------


def test_the_rows_of_all_sources_come_in_order_each_in_its_own_format(preparer: Preparer) -> None:
    chat = {"messages": [{"role": "user", "content": "m"}, {"role": "assistant", "content": "n"}]}
    prepared = preparer.prepare({"a.jsonl": [pair("a"), pair("b")], "b.jsonl": [chat]})
    assert [text.partition("\n")[2][0] for text in prepared.texts()] == ["a", "b", "m"]
    assert [source.format for source in prepared.report.sources] == ["InputTarget", "Messages"]


def test_several_processes_make_the_same_files_as_one(preparer: Preparer) -> None:
    rows = [pair(f"number {number % 4500}", "ok" * (number % 9 + 1)) for number in range(5000)]
    rows[700] = {"question": "no answer"}
    settings = {"validation": {"fraction": 0.1}, **drop(duplicates="Exact")}
    alone, several = (preparer.prepare(rows, processes=count, **settings) for count in (1, 3))
    assert {path.name: path.read_bytes() for path in alone.folder.iterdir()} == {
        path.name: path.read_bytes() for path in several.folder.iterdir()
    }
    assert alone.report.rows_read == 5000


# --- rows that cannot be used ----------------------------------------------------------------------------------


def test_invalid_rows_end_the_job_with_the_first_ten_and_the_total(preparer: Preparer) -> None:
    message = refusal(preparer, [pair(), *["{"] * 12, {"question": "q"}])
    assert message.startswith(
        "13 of 14 rows cannot be used (the first 10): s3://data/train.jsonl line 2: not JSON"
    )
    assert "line 11: " in message
    assert "line 12: " not in message
    assert message.endswith("or set dataset.preparation.invalidRows: Drop to leave such rows out.")


def test_problems_of_all_sources_are_told_at_once(preparer: Preparer) -> None:
    message = refusal(preparer, {"a.jsonl": [pair(), "{"], "b.jsonl": ["{oops", pair()]})
    assert "2 of 4 rows cannot be used: s3://data/a.jsonl line 2: " in message
    assert "s3://data/b.jsonl line 1: " in message


def test_invalid_rows_are_dropped_and_counted_where_the_job_says_so(preparer: Preparer) -> None:
    prepared = preparer.prepare(["{oops", 5, pair(), {"question": "q"}], **drop())
    assert prepared.dropped() == {"Invalid": 3}
    assert (prepared.report.rows_read, prepared.report.rows_used) == (4, 1)
    first = prepared.report.dropped[0].first
    assert [example.where for example in first] == [
        f"s3://data/train.jsonl line {line}" for line in (1, 2, 4)
    ]
    assert first[2].column == "answer"


def test_more_invalid_rows_than_allowed_end_the_job(preparer: Preparer) -> None:
    rows = [*[pair(f"q{number}") for number in range(8)], "{", "{"]
    message = refusal(preparer, rows, preparation={"invalidRows": "Drop"})
    assert (
        "2 of 10 rows cannot be used, 20.0%, and dataset.preparation.maxInvalidFraction allows 0.1" in message
    )
    kept = preparer.prepare(rows, preparation={"invalidRows": "Drop", "maxInvalidFraction": 0.2})
    assert kept.report.rows_used == 8


def test_a_row_that_the_template_refuses_is_an_invalid_row(preparer: Preparer) -> None:
    strict = "{% if messages[0].content == 'bad' %}{{ raise_exception('no bad words') }}{% endif %}" + CHATML
    message = refusal(preparer, [pair(), pair("bad")], template=strict)
    assert "line 2: the chat template refuses it (no bad words)" in message


def test_a_later_row_of_another_shape_is_invalid_not_a_new_format(preparer: Preparer) -> None:
    message = refusal(preparer, [*[pair()] * 40, {"messages": []}])
    assert "line 41: column question is missing" in message


@pytest.mark.parametrize("content", [[], ["", " "]], ids=["no line", "blank lines"])
def test_a_source_without_rows_is_refused_by_name(preparer: Preparer, content: list[object]) -> None:
    message = refusal(preparer, {"a.jsonl": [pair()], "b.jsonl": content})
    assert "s3://data/b.jsonl" in message


def test_what_is_refused_has_a_report_that_says_more(preparer: Preparer) -> None:
    with pytest.raises(DataRefused) as caught:
        preparer.prepare([pair(), "{"])
    report = caught.value.report
    assert (report.rows_read, report.rows_dropped) == (2, 1)
    assert report.dropped[0].first[0].where == "s3://data/train.jsonl line 2"


# --- lengths ---------------------------------------------------------------------------------------------------


def test_rows_longer_than_max_length_are_dropped_and_named(preparer: Preparer) -> None:
    prepared = preparer.prepare([pair(), pair("x" * 100)], max_length=32)
    assert prepared.dropped() == {"TooLong": 1}
    assert "tokens, more than maxLength 32" in prepared.report.dropped[0].first[0].why


def test_a_row_of_exactly_max_length_is_kept(preparer: Preparer) -> None:
    length = int(preparer.prepare([pair()]).rows().row_length(0))
    assert preparer.prepare([pair()], max_length=length).report.rows_used == 1
    message = refusal(preparer, [pair()], max_length=length - 1)
    assert message.startswith(
        "No row of 1 is left to train on: 1 too long (the first: s3://data/train.jsonl line 1"
    )
    assert "maxLength" in message


def test_rows_are_truncated_and_those_left_with_nothing_to_learn_are_dropped(preparer: Preparer) -> None:
    rows = [pair(answer="x" * 100), pair("x" * 100)]
    prepared = preparer.prepare(rows, max_length=32, preparation={"overlong": "Truncate"})
    assert list(prepared.rows().lengths) == [32]
    assert prepared.report.rows_truncated == 1
    assert prepared.dropped() == {"NothingToLearn": 1}
    assert any("cut at maxLength 32" in warning for warning in prepared.report.warnings)


def test_rows_shorter_than_min_length_are_dropped(preparer: Preparer) -> None:
    prepared = preparer.prepare([pair(), pair("x" * 100)], preparation={"minLength": 50})
    assert prepared.dropped() == {"TooShort": 1}


# --- cleaning --------------------------------------------------------------------------------------------------


def test_cleaning_is_done_before_the_template_and_counted(preparer: Preparer) -> None:
    preparation = {
        "noise": ["HTML"],
        "regex": [{"pattern": "foo", "action": "Replace", "replacement": "bar"}],
    }
    prepared = preparer.prepare([pair("<b>Where</b>?", "foo"), pair()], preparation=preparation)
    assert "Where?" in prepared.texts()[0]
    assert "<b>" not in prepared.texts()[0]
    assert prepared.learned()[0].startswith("bar")
    assert {change.step: change.rows for change in prepared.report.changed} == {"html": 1, "regex[0]": 1}


CANARY = {"Email": "canary.person@example.com", "Phone": "13912345678", "IPAddress": "203.0.113.77"}


def test_what_is_redacted_stands_nowhere(preparer: Preparer, caplog: pytest.LogCaptureFixture) -> None:
    text = " ".join(CANARY.values())
    rows: list[object] = [
        pair(f"Write to {text}, please.", f"Done: {text}"),
        pair(f"{text} " * 60, "too long"),
        pair(f"{text}", "x"), pair(f"{text}", "x"),
        {"messages": [{"role": CANARY["Email"], "content": text}]},
        {"question": f"{text}"},
        {"question": text, "answer": 5},
    ]  # fmt: skip
    prepared = preparer.prepare(rows, max_length=400, **drop(redact=list(CANARY), duplicates="Exact"))
    assert "[EMAIL]" in prepared.texts()[0]
    everything = prepared.report.model_dump_json() + caplog.text + "".join(prepared.texts())
    everything += "".join(
        path.read_bytes().decode("latin-1") for path in prepared.folder.parent.glob("*.arrow")
    )
    for secret in CANARY.values():
        assert secret not in everything


# --- duplicates, splits, weights -------------------------------------------------------------------------------


def test_duplicates_go_and_the_report_names_pairs(preparer: Preparer) -> None:
    rows = [pair("a"), pair("b"), pair("a"), pair("a", "other")]
    prepared = preparer.prepare(rows, preparation={"duplicates": "Exact"})
    assert prepared.dropped() == {"Duplicate": 1}
    duplicates = prepared.report.duplicates
    assert duplicates is not None
    assert (duplicates.exact, duplicates.near) == (1, 0)
    assert duplicates.pairs[0].where == "s3://data/train.jsonl line 3"
    assert duplicates.pairs[0].repeats == "s3://data/train.jsonl line 1"


LONG = "I ordered a red kettle on Monday and it has not come yet, could you please tell me where it is"


@pytest.mark.parametrize("method", ["TFIDF", "MinHash"])
def test_near_duplicates_go(preparer: Preparer, method: str) -> None:
    rows = [pair(LONG), pair("How do I change my password?"), pair(f"{LONG} now")]
    prepared = preparer.prepare(rows, preparation={"duplicates": method, "duplicateThreshold": 0.8})
    assert prepared.dropped() == {"NearDuplicate": 1}
    assert prepared.report.duplicates is not None
    assert 0.8 <= prepared.report.duplicates.pairs[0].similarity < 1
    assert prepared.report.duplicates.pairs[0].repeats == "s3://data/train.jsonl line 1"


def test_own_validation_and_test_rows_are_files_of_their_own_and_leakage_is_dropped(
    preparer: Preparer,
) -> None:
    prepared = preparer.prepare(
        [pair("a"), pair("b"), pair("c")], validation_rows=[pair("b"), pair("v")], test_rows=[pair("t")]
    )
    assert [len(prepared.rows(split)) for split in Split] == [2, 2, 1]
    assert prepared.dropped() == {"Leakage": 1}
    assert prepared.report.leakage[0].where == "s3://data/train.jsonl line 2"
    assert prepared.report.rows_by_split.validation == 2


@pytest.mark.parametrize("method", ["TFIDF", "MinHash"])
def test_a_training_row_that_nearly_repeats_any_held_out_row_leaks(preparer: Preparer, method: str) -> None:
    """Also one that a held-out row nearly repeats which itself repeats another: each of them is looked at."""
    train = [pair("How do I change my password?"), pair(f"{LONG} now please"), pair(f"{LONG} now please!")]
    preparation = {"duplicates": method, "duplicateThreshold": 0.8}
    prepared = preparer.prepare(
        train, validation_rows=[pair(LONG), pair(f"{LONG} now")], preparation=preparation
    )
    assert prepared.dropped()["Leakage"] == 2
    assert prepared.report.leakage[0].where == "s3://data/train.jsonl line 2"


def test_leakage_can_end_the_job(preparer: Preparer) -> None:
    message = refusal(
        preparer, [pair("a"), pair("b")], validation_rows=[pair("b")], preparation={"leakage": "Fail"}
    )
    assert "s3://data/train.jsonl line 2 says what s3://data/validation.jsonl line 1 says" in message


def test_a_fraction_is_validated_on(preparer: Preparer) -> None:
    rows = [pair(f"q{number}") for number in range(20)]
    prepared = preparer.prepare(rows, validation={"fraction": 0.2})
    assert [len(prepared.rows(split)) for split in (Split.TRAIN, Split.VALIDATION)] == [16, 4]
    assert set(prepared.texts()) & set(prepared.texts(Split.VALIDATION)) == set()


def test_a_fraction_of_too_few_rows_is_refused(preparer: Preparer) -> None:
    message = refusal(preparer, [pair()], validation={"fraction": 0.2})
    assert "dataset.validation.fraction 0.2 of 1 rows that differ leaves none to validate on" in message


def test_sources_have_weights(preparer: Preparer) -> None:
    rows = [pair(f"q{number}") for number in range(10)]
    prepared = preparer.prepare(rows, source={"weight": 2.5})
    assert list(prepared.rows().weights) == [2.5] * 10
    assert prepared.rows_per_epoch == 25


def test_classes_are_balanced_and_the_report_says_how(preparer: Preparer) -> None:
    rows = [{"text": f"text {number}", "label": "few" if number < 2 else "many"} for number in range(14)]
    prepared = preparer.prepare(rows, preparation={"balance": {"maxRatio": 3}})
    balance = {each.label: each for each in prepared.report.labels}
    assert (balance["few"].rows_read, balance["many"].rows_read) == (2, 12)
    assert balance["many"].weight * 12 <= 3 * balance["few"].weight * 2 + 1e-3
    assert "few, many" in prepared.texts()[0]


def test_texts_of_a_classifier_have_labels_and_no_learned_token(preparer: Preparer) -> None:
    rows = [{"text": "fine", "label": "good"}, {"text": "awful", "label": "bad"}]
    prepared = preparer.prepare(rows, task=Task.SEQUENCE_CLASSIFICATION, labels=("bad", "good"))
    assert [prepared.rows().row(number).label for number in (0, 1)] == [1, 0]
    assert prepared.report.learned_tokens == 0


def test_copies_are_training_rows_only(preparer: Preparer) -> None:
    rows = [pair(f"I want to buy item {number}. It is red.") for number in range(10)]
    augment = {
        "methods": ["Synonyms"],
        "copies": 1,
        "wordList": "configMap://words/list.txt",
        "fraction": 0.5,
    }
    prepared = preparer.prepare(
        rows, words=(("buy", "purchase"),), preparation={"augment": augment}, validation={"fraction": 0.2}
    )
    assert prepared.report.augmented_rows == 8
    assert (len(prepared.rows()), len(prepared.rows(Split.VALIDATION))) == (16, 2)
    assert sum("purchase" in text for text in prepared.texts()) == 8
    assert not any("purchase" in text for text in prepared.texts(Split.VALIDATION))


# --- the report ------------------------------------------------------------------------------------------------


def test_the_report_counts_and_shows_rows_with_their_mask(preparer: Preparer) -> None:
    prepared = preparer.prepare([pair("Where is it?", "退款"), pair(), "{"], **drop())
    report = prepared.report
    assert (report.rows_read, report.rows_used, report.rows_dropped) == (3, 2, 1)
    assert report.tokens == int(prepared.rows().lengths.sum())
    assert report.learned_tokens == prepared.rows().learned_tokens
    shown = "<|im_start|>user⏎Where is it?<|im_end|>⏎<|im_start|>assistant⏎«退款<|im_end|>»⏎"
    assert describe_sample(report.samples[0]) == shown
    assert describe_summary(report).startswith("Prepared 2 of 3 rows (1 dropped: 1 invalid), ")
    on_disk = json.loads((prepared.folder / "data-report.json").read_text())
    assert DataReport.model_validate(on_disk) == report


# --- many rows, odd rows ---------------------------------------------------------------------------------------


def test_a_wrong_setting_is_told_as_such_also_where_processes_work(preparer: Preparer) -> None:
    with pytest.raises(UserError, match="regex"):
        preparer.prepare(
            [pair(f"q{number}") for number in range(4500)],
            processes=2,
            preparation={"regex": [{"pattern": "(["}]},
        )


def test_lines_that_cannot_be_read_do_not_hide_the_format_of_those_behind_them(preparer: Preparer) -> None:
    prepared = preparer.prepare(["{oops"] * 40 + [pair(f"q{number}") for number in range(50)], **drop())
    assert prepared.report.rows_used == 50
    assert prepared.dropped() == {"Invalid": 40}


def test_long_rows_travel_in_small_chunks(model: Path, tmp_path: Path) -> None:
    source = local_source(tmp_path, [pair("x" * 1_000_000) for _ in range(20)])
    sizes = [len(chunk.rows) for chunk in chunks_of([source])]
    assert sum(sizes) == 20
    assert max(sizes) <= 6


def test_what_is_decided_on_keeps_no_tokens_in_memory(model: Path, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.arrow")
    settings = worker_settings(model)
    rows = tuple(RawRow(Place("f", "line", number), pair()) for number in range(1, 5))
    worker = RowWorker(settings, ExampleEncoder.build(settings.encoder))
    spool.add(worker.work(Chunk(0, rows)).encoded)
    kept = [column for columns in spool._facts.values() for column in columns]
    assert all(column.base is None or column.flags.owndata for column in kept)


def test_weights_that_leave_an_epoch_empty_are_refused(preparer: Preparer) -> None:
    message = refusal(preparer, [pair("a"), pair("b"), pair("c")], source={"weight": 0.01})
    assert "let an epoch see none of the 3 training rows" in message


def test_plain_text_needs_no_chat_template(preparer: Preparer) -> None:
    for template in ("no roles here", "{% if %}", None):
        prepared = preparer.prepare([{"text": "plain words"}] * 3, template=template)
        assert prepared.report.mask_source == "of plain text every token and one end token are learned"
        assert prepared.report.warnings == ()


def test_a_source_that_gives_nothing_is_told(preparer: Preparer) -> None:
    sources = {"a.jsonl": [pair(f"q{number}") for number in range(50)], "b.jsonl": [pair("q", "")]}
    prepared = preparer.prepare(sources, **drop())
    assert prepared.report.warnings == (
        "dataset.train (s3://data/b.jsonl) gives no row: all that it has are left out.",
    )


def test_more_classes_than_an_instruction_can_name_are_refused(preparer: Preparer) -> None:
    rows = [{"text": f"text {number}", "label": f"label {number}"} for number in range(1100)]
    assert "more than 1,024 different labels" in refusal(preparer, rows)


def test_texts_with_two_labels_are_told(preparer: Preparer) -> None:
    rows = [{"text": "same", "label": "a"}, {"text": "same", "label": "b"}, {"text": "other", "label": "b"}]
    assert any("1 rows have the text of another row and another label" in each
               for each in preparer.prepare(rows).report.warnings)  # fmt: skip


PRIVATE_NAMES: dict[str, list[object] | dict[str, bytes]] = {
    "a long role": [pair(), {"messages": [{"role": "x" * 22 + " canary.alice@example.com", "content": "a"}]}],
    "a header that is a row": {"rows.csv": b"13912345678,canary.alice@example.com,hello\n1,2,3\n"},
    "a label": [{"text": "a", "label": "canary.alice@example.com"}, {"text": "b", "label": "c"}],
}


@pytest.mark.parametrize("case", PRIVATE_NAMES)
def test_names_of_roles_columns_and_labels_are_redacted_too(
    preparer: Preparer, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    told = ""
    try:
        prepared = preparer.prepare(PRIVATE_NAMES[case], preparation={"redact": ["Email", "Phone"]})
        told = prepared.report.model_dump_json() + "".join(prepared.texts())
    except DataRefused as refused:
        told = refused.message + refused.report.model_dump_json()
    except DataError as error:
        told = error.message
    for canary in ("canary.alice", "13912345678"):
        assert canary not in told + caplog.text


@pytest.mark.parametrize("leakage", ["Keep", "Fail", "Drop"])
def test_leakage_names_the_held_out_row_whatever_else_a_row_repeats(preparer: Preparer, leakage: str) -> None:
    train = [pair(f"{LONG} one"), pair(f"{LONG} two"), pair("How do I change my password?")]
    settings = {"duplicates": "TFIDF", "duplicateThreshold": 0.7, "leakage": leakage}
    try:
        report = preparer.prepare(train, validation_rows=[pair(LONG)], preparation=settings).report
    except DataRefused as refused:
        report = refused.report
    assert [(each.where, each.repeats) for each in report.leakage] == [
        ("s3://data/train.jsonl line 1", "s3://data/validation.jsonl line 1"),
        ("s3://data/train.jsonl line 2", "s3://data/validation.jsonl line 1"),
    ]


# --- what a digest stands for ----------------------------------------------------------------------------------

EVERYTHING = {
    "unicode": "NFKC", "fullWidth": "Narrow", "noise": ["HTML", "Markup", "ControlCharacters"],
    "regex": [{"pattern": "foo", "action": "Replace", "replacement": "bar"}],
    "redact": ["Email", "Phone", "IDCard", "BankCard", "IPAddress"], "duplicates": "MinHash", "duplicateThreshold": 0.8,
}  # fmt: skip


def test_the_same_preparation_gives_the_same_rows_in_every_release(preparer: Preparer) -> None:
    """Prepared data are shared by their digest. If this fails on purpose, raise digest.PREPARATION_VERSION."""
    rows = [
        pair("<p>Where is my &amp; parcel?</p>", "**On** its way, call ＋８６ 13912345678"),
        pair("foo #1", "mail a.b@example.com or 203.0.113.9"),
        pair(LONG), pair(f"{LONG}!"), pair("我的订单在哪里？ﬁ", "已发货\u200b"),
    ]  # fmt: skip
    prepared = preparer.prepare(rows, validation={"fraction": 0.25}, preparation=EVERYTHING)
    kept = hashlib.sha256("\n".join(prepared.texts() + prepared.texts(Split.VALIDATION)).encode()).hexdigest()
    assert (PREPARATION_VERSION, kept) == (
        2,
        "f853de78335b979280c2e500caf499d40c2faf3c55d03ef0db8e39c5cb221781",
    )
