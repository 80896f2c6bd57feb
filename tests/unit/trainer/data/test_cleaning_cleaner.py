"""A row's way through all steps: the order, what is counted, why it is left out."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from finetune_api.spec import Preparation
from finetune_trainer.data.cleaning import Cleaned, Cleaner
from finetune_trainer.data.rows import (
    Continuation,
    Conversation,
    DropReason,
    Example,
    LabelledText,
    Message,
    Place,
    ToolCall,
)

PLACE = Place("rows.jsonl", "line", 3)


def clean(example: Example, **preparation: Any) -> Cleaned:
    return Cleaner.build(Preparation.model_validate(preparation)).clean(example)


def chat(user: str = "q", assistant: str = "a", system: str = "s") -> Conversation:
    messages = (Message("system", system), Message("user", user), Message("assistant", assistant))
    return Conversation(PLACE, messages)


EVERYTHING = {
    "unicode": "NFC",
    "fullWidth": "Narrow",
    "noise": ["Symbols", "Markup", "HTML", "ControlCharacters"],
    "regex": [{"pattern": "[ ]+$"}],
    "redact": ["Email"],
    "minCharacters": 1,
    "maxCharacters": 1000,
}


def test_without_settings_the_example_is_returned_as_it_is() -> None:
    example = chat("<b>\u200b１</b>")
    cleaned = clean(example)
    assert cleaned.example is example
    assert cleaned == Cleaned(example, {})


def test_an_example_that_nothing_changes_stays_the_same_object() -> None:
    example = chat()
    assert clean(example, **EVERYTHING).example is example


def test_every_step_is_counted_under_its_name() -> None:
    cleaned = clean(chat("e\u0301１ <b>\u200bto</b> **x** me@example.com  "), **EVERYTHING)
    assert cleaned.example == chat("é1 to x [EMAIL]")
    assert cleaned.changes == {
        "unicode": 1,
        "fullWidth": 1,
        "html": 2,
        "controlCharacters": 1,
        "markup": 1,
        "regex[0]": 1,
        "redact.Email": 1,
    }


@pytest.mark.parametrize(
    ("text", "settings", "expected"),
    [
        pytest.param(
            "Ａ",
            {"fullWidth": "Narrow", "regex": [{"pattern": "A", "action": "Replace", "replacement": "b"}]},
            "b",
            id="expressions see narrow characters",
        ),
        pytest.param(
            "x&#8203;y",
            {"noise": ["ControlCharacters", "HTML"]},
            "xy",
            id="invisible characters out of HTML go",
        ),
        pytest.param(
            "a at b.org",
            {"regex": [{"pattern": " at ", "action": "Replace", "replacement": "@"}], "redact": ["Email"]},
            "[EMAIL]",
            id="redaction sees what expressions made",
        ),
        pytest.param(
            "a@b.org",
            {"redact": ["Email"], "maxCharacters": 12},
            "[EMAIL]",
            id="the bounds hold after redaction",
        ),
    ],
)
def test_steps_come_in_this_order(text: str, settings: dict[str, Any], expected: str) -> None:
    assert clean(LabelledText(PLACE, text, "l"), **settings).example == LabelledText(PLACE, expected, "l")


TOOL_CHAT = Conversation(
    PLACE,
    (
        Message("user", "**find**"),
        Message(
            "assistant", "", thinking="<b>hm</b>", tool_calls=(ToolCall("f", {"q": "<b>**x**</b>\u200b"}),)
        ),
        Message("tool", "<p>found</p>\u200b"),
        Message("assistant", "<i>done</i>"),
    ),
)


def test_markup_is_content_where_machines_talk_and_invisible_characters_are_not() -> None:
    cleaned = clean(TOOL_CHAT, noise=["HTML", "Markup", "ControlCharacters"])
    assert cleaned.example == Conversation(
        PLACE,
        (
            Message("user", "find"),
            Message("assistant", "", thinking="hm", tool_calls=(ToolCall("f", {"q": "<b>**x**</b>"}),)),
            Message("tool", "<p>found</p>"),
            Message("assistant", "done"),
        ),
    )


def test_redaction_reaches_tool_calls_and_answers() -> None:
    messages = (
        Message("assistant", "", tool_calls=(ToolCall("mail", {"to": ["a@b.org"]}),)),
        Message("tool", "a@b.org"),
    )
    cleaned = clean(Conversation(PLACE, messages), redact=["Email"])
    assert "a@b.org" not in repr(cleaned)
    assert cleaned.changes == {"redact.Email": 2}


@pytest.mark.parametrize(
    ("example", "settings", "reason", "why"),
    [
        pytest.param(
            chat(user="<br>"), {"noise": ["HTML"]}, DropReason.NOISE,
            "noise HTML leaves nothing of the user's text", id="a question of HTML",
        ),
        pytest.param(
            chat(assistant="\u200b"), {"noise": ["ControlCharacters"]}, DropReason.NOISE,
            "noise ControlCharacters leaves nothing of the assistant's text", id="an invisible answer",
        ),
        pytest.param(
            chat(assistant="[b][/b]"), {"noise": ["Markup"]}, DropReason.NOISE,
            "noise Markup leaves nothing of the assistant's text", id="an answer of markup",
        ),
        pytest.param(
            Continuation(PLACE, "x", "y"), {"regex": [{"pattern": "x"}]}, DropReason.REGEX,
            "preparation.regex[0] leaves nothing of the prompt", id="an empty prompt",
        ),
        pytest.param(
            Continuation(PLACE, "", "y"), {"regex": [{"pattern": "y"}]}, DropReason.REGEX,
            "preparation.regex[0] leaves nothing of what is learned", id="an empty completion",
        ),
        pytest.param(
            LabelledText(PLACE, "=" * 20 + "ab", "l"), {"noise": ["Symbols"]}, DropReason.NOISE,
            "only 9% of its 22 visible characters are letters or digits (noise Symbols asks for 30%)", id="symbols",
        ),
        pytest.param(
            chat("1234", "56", "7"), {"minCharacters": 8}, DropReason.TOO_SHORT,
            "7 characters, fewer than preparation.minCharacters 8", id="all texts together are too short",
        ),
        pytest.param(
            LabelledText(PLACE, "x" * 1234, "l"), {"maxCharacters": 1000}, DropReason.TOO_LONG,
            "1,234 characters, more than preparation.maxCharacters 1,000", id="too long",
        ),
    ],
)  # fmt: skip
def test_a_row_is_left_out_with_its_reason(
    example: Example, settings: dict[str, Any], reason: DropReason, why: str
) -> None:
    cleaned = clean(example, **settings)
    assert (cleaned.example, cleaned.drop, cleaned.why, dict(cleaned.changes)) == (None, reason, why, {})


@pytest.mark.parametrize(
    "example",
    [
        pytest.param(chat(system="<br>"), id="a system prompt that becomes empty"),
        pytest.param(
            Conversation(PLACE, (Message("assistant", "<br>", tool_calls=(ToolCall("f", {}),)),)),
            id="an assistant's turn that calls a tool",
        ),
        pytest.param(Continuation(PLACE, "", "<br>text"), id="a prompt that was empty before"),
    ],
)
def test_a_row_that_still_says_something_stays(example: Example) -> None:
    assert clean(example, noise=["HTML"]).example is not None


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("你好，世界。", id="Chinese"),
        pytest.param("for (int i=0;i<n;++i){a[i]=b[i]*2;}", id="code"),
        pytest.param("\\frac{a}{b} + \\sqrt{x^2}", id="a formula"),
        pytest.param("หน้าที่", id="Thai, with marks above the letters"),
        pytest.param("हिन्दी में", id="Hindi, with vowel signs"),
        pytest.param("e\u0301\u0302!!", id="a letter under many accents"),
    ],
)
def test_letters_of_every_script_are_no_symbols(text: str) -> None:
    assert clean(LabelledText(PLACE, text, "l"), noise=["Symbols"]).example is not None


def test_the_excerpt_of_a_row_that_is_left_out_is_redacted_and_cut() -> None:
    settings = {"regex": [{"pattern": "drop me", "action": "DropRow"}], "redact": ["Email"]}
    cleaned = clean(
        LabelledText(PLACE, "drop me\n\n a@b.org " + "x" * 110 + " tail@example.com", "l"), **settings
    )
    assert cleaned.excerpt.startswith("drop me [EMAIL] xxx")
    assert len(cleaned.excerpt) == 120
    assert cleaned.excerpt.endswith("…")
    assert "@" not in repr(cleaned)


def test_a_cleaner_travels_between_processes() -> None:
    preparation = Preparation.model_validate(EVERYTHING)
    cleaner = pickle.loads(pickle.dumps(Cleaner.build(preparation)))
    assert cleaner.clean(chat("<b>x</b>\u200b a@b.org")).example == chat("x [EMAIL]")
