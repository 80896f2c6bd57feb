"""Builds the steps of cleaning from `dataset.preparation`, and takes an example through them.

The order: one way to write characters (`unicode`, `fullWidth`), then noise, so that the job's own expressions see the
text that will be learned, then redaction, then the bounds on what is left. Within noise HTML comes first: it turns
references into characters, invisible ones too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from finetune_api.spec import FullWidth, Noise, Preparation, Redaction, UnicodeForm
from finetune_trainer.data.cleaning.bounds import CharacterBounds
from finetune_trainer.data.cleaning.control_characters import remove_control_characters
from finetune_trainer.data.cleaning.html_text import remove_html
from finetune_trainer.data.cleaning.markup import remove_markup
from finetune_trainer.data.cleaning.normalization import compose, compose_compatibly, narrow
from finetune_trainer.data.cleaning.patterns import compile_rules
from finetune_trainer.data.cleaning.steps import Changes, Drop, Step, TextStep, change_texts
from finetune_trainer.data.cleaning.symbols import SymbolCheck
from finetune_trainer.data.rows import Conversation, DropReason, Example, change_json, texts_of

if TYPE_CHECKING:
    from finetune_trainer.data.redaction.redactor import Redactor

_EXCERPT_CHARACTERS = 120
_NO_CHANGES: Mapping[str, int] = {}
# A quoted name, or the words, that end in the mark of a cut: half of a number is not recognised as one.
_CUT_NAME = re.compile(r"(?<=')[^']* …(?=')|[^,;()']* …")

_COMPOSITION = {UnicodeForm.NFC: compose, UnicodeForm.NFKC: compose_compatibly}
_NOISE_STEPS: Mapping[Noise, Step] = {
    Noise.HTML: TextStep("html", "noise HTML", remove_html, only_prose=True),
    Noise.CONTROL_CHARACTERS: TextStep(
        "controlCharacters", "noise ControlCharacters", remove_control_characters
    ),
    Noise.MARKUP: TextStep("markup", "noise Markup", remove_markup, only_prose=True),
    Noise.SYMBOLS: SymbolCheck(),
}


@dataclass(frozen=True, slots=True)
class Cleaned:
    """An example after cleaning with what was changed, or why it is left out."""

    example: Example | None
    # Step of the report (unicode, fullWidth, html, controlCharacters, markup, regex[0], redact.Email …) → how much of
    # this row it changed: texts for unicode, characters for fullWidth and controlCharacters, matches for the others.
    # A row that is left out counts no changes.
    changes: Mapping[str, int]
    drop: DropReason | None = None
    # Quotes no text of the row.
    why: str = ""
    # The beginning of a row that is left out, for the report, after redaction.
    excerpt: str = ""


@dataclass(frozen=True, slots=True)
class RedactionStep:
    """Puts placeholders in place of what identifies people."""

    redactor: Redactor

    def redact_reason(self, reason: str) -> str:
        """Redact a sentence that names columns, roles or labels. Of names that were cut nothing is left to show."""
        return self.redactor.redact(_CUT_NAME.sub("…", reason)).text

    def run(self, example: Example, changes: Changes) -> Example:
        """Redact every text; what tools are told and answer too."""

        def redacted(text: str) -> str:
            result = self.redactor.redact(text)
            for kind, occurrences in result.counts.items():
                key = f"redact.{kind.value}"
                changes[key] = changes.get(key, 0) + occurrences
            return result.text

        return _described(change_texts(example, redacted), redacted)


def _described(example: Example, change: Callable[[str], str]) -> Example:
    """What stands beside the texts: descriptions of tools, and who speaks."""
    if not isinstance(example, Conversation) or not (example.tools or any(m.name for m in example.messages)):
        return example
    return replace(
        example,
        tools=tuple(change_json(tool, change) for tool in example.tools),
        messages=tuple(
            replace(message, name=change(message.name)) if message.name else message
            for message in example.messages
        ),
    )


@dataclass(frozen=True, slots=True)
class Cleaner:
    """Everything that `preparation` asks to be done to a row's text. Picklable; build it once."""

    steps: tuple[Step, ...]
    redaction: RedactionStep | None = None

    @classmethod
    def build(cls, preparation: Preparation) -> Cleaner:
        """Choose the steps and compile the patterns. Raises UserError for a pattern that is none."""
        redaction = _redaction(preparation.redact or ())
        return cls(tuple(_steps(preparation, redaction)), redaction)

    def clean(self, example: Example) -> Cleaned:
        """Take an example through the steps. Raises UserError for a regular expression that does not end."""
        if not self.steps:
            return Cleaned(example, _NO_CHANGES)
        changes: Changes = {}
        cleaned = example
        for step in self.steps:
            outcome = step.run(cleaned, changes)
            if isinstance(outcome, Drop):
                return Cleaned(None, _NO_CHANGES, outcome.reason, outcome.why, self._excerpt(cleaned))
            cleaned = outcome
        return Cleaned(cleaned, changes)

    def _excerpt(self, example: Example) -> str:
        # The step that drops a row may stand before redaction. It is cut afterwards, or half a number could be shown.
        shown = self.redaction.run(example, {}) if self.redaction else example
        words = " ".join(" ".join(text[: _EXCERPT_CHARACTERS * 4] for text in texts_of(shown)).split())
        return words if len(words) <= _EXCERPT_CHARACTERS else f"{words[: _EXCERPT_CHARACTERS - 1]}…"


def _steps(preparation: Preparation, redaction: RedactionStep | None) -> Iterator[Step]:
    if preparation.unicode is not UnicodeForm.NONE:
        yield TextStep("unicode", f"unicode {preparation.unicode}", _COMPOSITION[preparation.unicode])
    if preparation.full_width is FullWidth.NARROW:
        yield TextStep("fullWidth", "fullWidth Narrow", narrow)
    chosen = preparation.noise or ()
    yield from (step for noise, step in _NOISE_STEPS.items() if noise in chosen)
    yield from compile_rules(preparation.regex or ())
    if redaction:
        yield redaction
    if preparation.min_characters is not None or preparation.max_characters is not None:
        yield CharacterBounds(preparation.min_characters, preparation.max_characters)


def _redaction(kinds: list[Redaction] | tuple[()]) -> RedactionStep | None:
    if not kinds:
        return None
    # It brings the tables of the world's telephone numbers, which no other job needs to load.
    from finetune_trainer.data.redaction.redactor import Redactor

    return RedactionStep(Redactor.build(kinds))
