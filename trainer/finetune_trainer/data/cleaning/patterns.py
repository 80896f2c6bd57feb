"""The job's own regular expressions: compiled once, applied in their order, and stopped when they do not end.

Python's engine backtracks, so a pattern such as `(a+)+$` can take years for one row. Nothing in a pattern tells that
for sure; therefore each row has a time limit, after which the job ends with a sentence that names the pattern.
"""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from finetune_api.spec import RegexAction, RegexRule
from finetune_trainer.data.cleaning.steps import Changes, Drop, change_texts, unless_emptied
from finetune_trainer.data.rows import DropReason, Example, texts_of
from finetune_trainer.errors import UserError

# Of wall time, for one pattern and one row of at most a few MiB; a sound pattern needs milliseconds.
ROW_LIMIT_SECONDS = 10.0
_SHOWN_CHARACTERS = 80


@dataclass(frozen=True, slots=True)
class RegexStep:
    """One `regex` entry: takes text out, replaces it, or drops the row."""

    index: int
    pattern: re.Pattern[str]
    action: RegexAction
    replacement: str
    limit_seconds: float = ROW_LIMIT_SECONDS

    @property
    def key(self) -> str:
        """The step's name in the report."""
        return f"regex[{self.index}]"

    def run(self, example: Example, changes: Changes) -> Example | Drop:
        """Apply the pattern to all texts of a row. Raises UserError when that does not end."""
        try:
            with _time_limit(self.limit_seconds):
                return self._applied(example, changes)
        except _TimeIsUp:
            raise UserError(
                f"dataset.preparation.regex[{self.index}].pattern '{_cut(self.pattern.pattern)}' did not end within "
                f"{self.limit_seconds:g} s for {example.place}. Write it without repetitions inside repetitions, "
                "such as a+ in place of (a+)+, or make them possessive: (a++)+."
            ) from None

    def _applied(self, example: Example, changes: Changes) -> Example | Drop:
        if self.action is RegexAction.DROP_ROW:
            found = any(self.pattern.search(text) for text in texts_of(example))
            return Drop(DropReason.REGEX, f"preparation.{self.key} matches") if found else example
        return unless_emptied(
            example, self._changed(example, changes), f"preparation.{self.key}", DropReason.REGEX
        )

    def _changed(self, example: Example, changes: Changes) -> Example:
        def replaced(text: str) -> str:
            changed, occurrences = self.pattern.subn(self.replacement, text)
            if occurrences:
                changes[self.key] = changes.get(self.key, 0) + occurrences
            return changed

        return change_texts(example, replaced)


def compile_rules(rules: Sequence[RegexRule]) -> Iterator[RegexStep]:
    """Compile all patterns. Raises UserError for the first that Python refuses, or whose replacement it refuses."""
    for index, rule in enumerate(rules):
        field = f"dataset.preparation.regex[{index}]"
        try:
            pattern = re.compile(rule.pattern)
        except (re.error, OverflowError, RecursionError) as error:
            raise UserError(
                f"{field}.pattern '{_cut(rule.pattern)}' is no regular expression of Python's re: {error}. Correct it."
            ) from error
        replacement = rule.replacement or ""
        try:
            # Reads the replacement's group references, also where nothing matches.
            pattern.sub(replacement, "")
        except (re.error, IndexError) as error:
            raise UserError(
                f"{field}.replacement '{_cut(replacement)}' does not fit the pattern: {error}. Correct it, and write a "
                r"backslash as \\."
            ) from error
        yield RegexStep(index, pattern, rule.action, replacement)


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


class _TimeIsUp(Exception):
    """Raised inside the engine: it looks for signals while it backtracks."""


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    # Signals reach the main thread only. That is where worker processes, and a prepare without them, clean rows.
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signal_number: int, frame: FrameType | None) -> None:
        raise _TimeIsUp

    handler = signal.signal(signal.SIGALRM, stop)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        # Somebody else's alarm, such as a test's, goes on with the time it had left.
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, handler or signal.SIG_DFL)
