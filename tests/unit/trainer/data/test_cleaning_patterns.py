"""The job's own expressions: applied in order, refused with a sentence, stopped when they do not end."""

from __future__ import annotations

import dataclasses
import signal
import threading
from typing import Any

import pytest

from finetune_api.spec import Preparation, RegexRule
from finetune_trainer.data.cleaning import Cleaned, Cleaner
from finetune_trainer.data.cleaning.patterns import compile_rules
from finetune_trainer.data.rows import Continuation, DropReason, LabelledText, Place
from finetune_trainer.errors import UserError

PLACE = Place("s3://data/rows.jsonl", "line", 7)


def clean(text: str, *rules: dict[str, str]) -> Cleaned:
    preparation = Preparation.model_validate({"regex": list(rules)})
    return Cleaner.build(preparation).clean(LabelledText(PLACE, text, "a"))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        pytest.param({"pattern": r"\d+"}, "a b", id="removing is the default"),
        pytest.param({"pattern": r"\d", "action": "Replace", "replacement": "#"}, "a## b##", id="replacing"),
        pytest.param(
            {"pattern": r"(?P<d>\d)(\d)", "action": "Replace", "replacement": r"\2\g<d>"},
            "a21 b21",
            id="groups",
        ),
    ],
)
def test_matching_text_is_changed_and_counted(rule: dict[str, str], expected: str) -> None:
    cleaned = clean("a12 b12", rule)
    assert cleaned.example == LabelledText(PLACE, expected, "a")
    assert cleaned.changes == {"regex[0]": 4 if expected == "a## b##" else 2}


def test_rules_are_applied_in_their_order() -> None:
    cleaned = clean("ab", {"pattern": "a", "action": "Replace", "replacement": "b"}, {"pattern": "bb"})
    assert cleaned.drop is DropReason.REGEX
    assert cleaned.why == "preparation.regex[1] leaves nothing of the text"


def test_a_row_is_dropped_by_its_rule_and_the_reason_quotes_no_text() -> None:
    cleaned = clean("my secret", {"pattern": "x"}, {"pattern": "secret", "action": "DropRow"})
    assert (cleaned.example, cleaned.drop) == (None, DropReason.REGEX)
    assert cleaned.why == "preparation.regex[1] matches"
    assert cleaned.changes == {}


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        pytest.param(
            {"pattern": "a)("},
            r"dataset.preparation.regex[1].pattern 'a)(' is no regular expression of Python's re: unbalanced parenthesis",
            id="a pattern that is none",
        ),
        pytest.param(
            {"pattern": "(" * 300},
            "dataset.preparation.regex[1].pattern '((((((((((",
            id="a long pattern is cut",
        ),
        pytest.param(
            {"pattern": "a", "action": "Replace", "replacement": r"\1"},
            r"dataset.preparation.regex[1].replacement '\1' does not fit the pattern: invalid group reference 1",
            id="a group that the pattern does not have",
        ),
        pytest.param(
            {"pattern": "a", "action": "Replace", "replacement": r"\g<name>"},
            r"dataset.preparation.regex[1].replacement '\g<name>' does not fit the pattern: unknown group name 'name'",
            id="a named group that the pattern does not have",
        ),
        pytest.param(
            {"pattern": "a", "action": "Replace", "replacement": "C:\\users"},
            r"dataset.preparation.regex[1].replacement 'C:\users' does not fit the pattern: bad escape \u",
            id="a backslash that escapes nothing",
        ),
    ],
)
def test_what_python_refuses_is_refused_by_name(rule: dict[str, str], sentence: str) -> None:
    with pytest.raises(UserError) as raised:
        clean("text", {"pattern": "fine"}, rule)
    assert raised.value.message.startswith(sentence)
    assert len(raised.value.message) < 400


def endless_step(limit_seconds: float) -> Any:
    (step,) = compile_rules([RegexRule(pattern="(a+)+$")])
    return dataclasses.replace(step, limit_seconds=limit_seconds)


def test_a_pattern_that_does_not_end_is_stopped_and_named() -> None:
    with pytest.raises(UserError) as raised:
        endless_step(0.2).run(Continuation(PLACE, "a" * 60 + "!", "b"), {})
    assert raised.value.message.startswith(
        "dataset.preparation.regex[0].pattern '(a+)+$' did not end within 0.2 s for s3://data/rows.jsonl line 7."
    )
    assert "aaaa" not in raised.value.message


def test_somebody_elses_alarm_goes_on() -> None:
    rung = threading.Event()
    handler = signal.signal(signal.SIGALRM, lambda *_: rung.set())
    timer = signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        clean("text", {"pattern": "x"})
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 0.5
        assert rung.wait(10)
    finally:
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, *timer)


def test_patterns_work_in_another_thread_where_no_alarm_can_ring() -> None:
    found: list[Cleaned] = []
    thread = threading.Thread(target=lambda: found.append(clean("a1", {"pattern": "1"})))
    thread.start()
    thread.join(10)
    assert found[0].example == LabelledText(PLACE, "a", "a")
