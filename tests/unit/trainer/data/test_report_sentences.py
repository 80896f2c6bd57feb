"""Numbers and reasons in words."""

from __future__ import annotations

import pytest

from finetune_trainer.data.report import count_reason, describe_summary
from finetune_trainer.data.report.model import RunForecast
from finetune_trainer.data.report.sentences import (
    REASON_REMARKS,
    REASON_TITLES,
    REASON_WORDS,
    as_sentence,
    describe_change,
    percent,
    plural,
    short_number,
)
from finetune_trainer.data.rows import DropReason, Split
from tests.builders.data_reports import make_data_report, make_eventful_report


def test_the_summary_has_the_largest_reasons_and_what_the_run_does() -> None:
    assert describe_summary(make_eventful_report()) == (
        "Prepared 10,184 of 10,514 rows (330 dropped: 121 duplicates, 89 near duplicates, 61 too long, 33 invalid, "
        "26 for other reasons), 1.0 M tokens, 41 % learned; longest 512; 295 steps an epoch."
    )


def test_the_summary_says_nothing_of_what_did_not_happen() -> None:
    report = make_data_report(lengths={Split.TRAIN: [10, 20]}, learned_tokens=6)
    assert describe_summary(report) == "Prepared 4 of 4 rows, 30 tokens, 20 % learned; longest 20."


def test_a_classifier_learns_labels_and_no_share_of_tokens() -> None:
    assert "learned" not in describe_summary(make_data_report(learned_tokens=0))


def test_one_step_is_one_step() -> None:
    forecast = RunForecast(
        global_batch_size=8,
        micro_batch_tokens=None,
        steps_per_epoch=1,
        total_steps=3,
        epochs=3,
        padded_share_unpacked=0,
        padded_share_packed=0,
    )
    report = make_data_report().model_copy(update={"run": forecast})
    assert describe_summary(report).endswith("; 1 step an epoch.")


def test_every_reason_has_its_words() -> None:
    assert set(REASON_WORDS) == set(REASON_TITLES) == set(REASON_REMARKS) == set(DropReason)
    assert count_reason(DropReason.DUPLICATE, 1) == "1 duplicate"
    assert count_reason(DropReason.DUPLICATE, 1200) == "1,200 duplicates"


def test_a_step_without_words_is_named_as_the_job_names_it() -> None:
    assert describe_change("redact.IDCard") == "ID card numbers replaced by [ID_CARD]"
    assert describe_change("regex[2]") == "preparation.regex[2]"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0, "0"),
        (812, "812"),
        (9999, "9,999"),
        (10_000, "10.0 k"),
        (99_949, "99.9 k"),
        (99_960, "100 k"),
        (999_499, "999 k"),
        (999_500, "1.0 M"),
        (1_240_000, "1.2 M"),
        (12_000_000_000, "12.0 G"),
    ],
)
def test_large_numbers_are_short(value: int, written: str) -> None:
    assert short_number(value) == written


@pytest.mark.parametrize(
    ("share", "written"),
    [
        (0.0, "0 %"),
        (0.0001, "< 0.1 %"),
        (0.0115, "1.1 %"),
        (0.0999, "10.0 %"),
        (0.4127, "41 %"),
        (0.99, "99 %"),
        (0.9999, "99.9 %"),
        (1.0, "100 %"),
    ],
)
def test_a_share_is_never_rounded_to_none_or_all(share: float, written: str) -> None:
    assert percent(share) == written


@pytest.mark.parametrize(
    ("count", "written"), [(0, "0 epochs"), (1, "1 epoch"), (1.0, "1 epoch"), (2.5, "2.5 epochs")]
)
def test_nouns_follow_their_count(count: float, written: str) -> None:
    assert plural(count, "epoch") == written


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("recognised as Text", "Recognised as Text."),
        ("dataset.chatTemplate", "dataset.chatTemplate."),
        ("s3://m/qwen3", "s3://m/qwen3."),
        ("Done.", "Done."),
        ("", ""),
    ],
)
def test_a_phrase_becomes_a_sentence_and_a_name_stays_a_name(text: str, sentence: str) -> None:
    assert as_sentence(text) == sentence
