"""The report in a terminal."""

from __future__ import annotations

from finetune_trainer.data.report import SampleRow
from finetune_trainer.data.report.text import render_text
from finetune_trainer.data.rows import Split
from tests.builders.data_reports import (
    make_chat,
    make_data_report,
    make_eventful_report,
    make_hostile_report,
    make_refused_report,
    make_row,
    place,
)


def test_a_plain_report_is_short() -> None:
    assert render_text(make_data_report(), colour=False) == (
        "Prepared 4 of 4 rows, 326 tokens, 23 % learned; longest 92.\n"
        "\n"
        "s3://support/tickets/2025-q4.jsonl: Messages, 4 of 4 rows used\n"
        "  Recognised as Messages: the first row has a list of turns in column messages.\n"
        "\n"
        "s3://support/tickets/2025-q4.jsonl line 1: 92 tokens, 22 of them learned\n"
        "Learned tokens: TRL's training template for Qwen3, of which the model's own is a variant: the assistant's "
        "tokens and <|im_end|>.\n"
        "\n"
        "  <|im_start|>user\n"
        "  Where is my parcel?<|im_end|>\n"
        "  <|im_start|>assistant\n"
        "  «order_status<|im_end|>»\n"
    )


def test_an_eventful_report_tells_what_was_left_out_and_where() -> None:
    lines = render_text(make_eventful_report(), colour=False).splitlines()
    assert lines[1].startswith("! Class promo_code has 38 rows")
    assert "  Read as GB18030." in lines
    first = lines.index("  Invalid: 33 rows")
    assert lines[first + 1 : first + 5] == [
        "    s3://support/tickets/2025-q4.jsonl line 41: not JSON: expecting ',' delimiter at column 88",
        "    s3://support/tickets/2025-q4.jsonl line 212, column messages: no assistant turn: nothing could be learned "
        "from it",
        "    s3://support/tickets/2025-q4.jsonl line 873, column messages: turn 3 has role 'agent'; roles are system, "
        "user, assistant and tool",
        "    and 30 more",
    ]
    assert "  E-mail addresses replaced by [EMAIL]: 88 places in 88 rows" in lines


def test_refused_data_show_the_refusal_and_no_summary() -> None:
    text = render_text(make_refused_report(), colour=False)
    assert text.startswith("No row of 2 is left to train on")
    assert "Prepared" not in text


def test_learned_tokens_are_green_in_colour() -> None:
    text = render_text(make_data_report(), colour=True)
    assert "\x1b[32morder_status<|im_end|>\x1b[39m" in text
    assert "«" not in text


def test_data_do_not_steer_the_terminal() -> None:
    row = make_chat("\x1b[2J\x1b]0;title\x07", "\x9b31m")
    text = render_text(make_data_report(samples=[SampleRow(place(1), Split.TRAIN, row)]), colour=False)
    assert "\ufffd[2J" in text
    assert not set(text) & {"\x1b", "\x07", "\x9b"}
    hostile = render_text(make_hostile_report(), colour=False)
    assert not set(hostile) & {"\x00", "\u202e"}


def test_a_long_row_is_cut_and_says_so() -> None:
    samples = [SampleRow(place(1), Split.TRAIN, make_row("a" * 1020, "b" * 6))]
    text = render_text(make_data_report(samples=samples), colour=False)
    assert text.endswith("«bbbb»\n  and 2 more tokens\n")
