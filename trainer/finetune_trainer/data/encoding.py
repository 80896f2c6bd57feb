"""Turns examples into token ids with the learned ones marked: what a worker process does with its rows.

A conversation is rendered by the chat template, a continuation is what it is and one end token, a labelled text is what
the tokenizer makes of it.
"""

from __future__ import annotations

import array
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path

from tokenizers import Encoding

from finetune_api.spec import LossOn
from finetune_trainer.data.chat_template import TemplateRefusal
from finetune_trainer.data.masks import LearnedText, RowRenderer, choose_renderer, learned_mask
from finetune_trainer.data.prepared import TokenizedRow
from finetune_trainer.data.rows import Continuation, Conversation, Example, LabelledText, RowProblem
from finetune_trainer.data.template_environment import Span
from finetune_trainer.data.tokenization import TOKENIZER_FILES, ModelTokenizer, load_tokenizer
from finetune_trainer.errors import UserError

# A template's own words may quote a row.
_REASON_CHARACTERS = 240


@dataclass(frozen=True, slots=True)
class EncoderSettings:
    """What makes tokens out of examples; picklable, so that every worker process builds its own encoder.

    `chat_template` replaces the model's own where the job sets it; `template_origin` is what messages call it.
    """

    tokenizer_directory: Path
    chat_template: str | None
    template_origin: str
    loss_on: LossOn
    labels: tuple[str, ...]


class ExampleEncoder:
    """Encodes examples of every kind."""

    def __init__(self, settings: EncoderSettings, tokenizer: ModelTokenizer) -> None:
        self._settings = settings
        self._tokenizer = tokenizer
        self._label_numbers = {label: number for number, label in enumerate(settings.labels)}

    @classmethod
    def build(cls, settings: EncoderSettings) -> ExampleEncoder:
        """Load the tokenizer. The chat template is looked at when it is needed: plain text needs none."""
        return cls(settings, load_tokenizer(settings.tokenizer_directory))

    @property
    def settings(self) -> EncoderSettings:
        """What another process builds the same encoder from."""
        return self._settings

    def with_labels(self, labels: tuple[str, ...]) -> ExampleEncoder:
        """The same encoder for these classes; the tokenizer is not loaded again."""
        return ExampleEncoder(replace(self._settings, labels=labels), self._tokenizer)

    def encode(self, examples: Sequence[Example]) -> list[TokenizedRow | RowProblem]:
        """Tokenise examples, in their order; one that the chat template refuses is a RowProblem.

        Raises UserError where the chat template, or the end token, is missing or cannot be used at all.
        """
        rows: list[TokenizedRow | RowProblem | None] = [None] * len(examples)
        rendered: list[tuple[int, LearnedText]] = []
        plain: list[tuple[int, Continuation | LabelledText]] = []
        for place, example in enumerate(examples):
            if isinstance(example, Conversation):
                outcome = self._render(example)
                if isinstance(outcome, RowProblem):
                    rows[place] = outcome
                else:
                    rendered.append((place, outcome))
            else:
                plain.append((place, example))
        self._encode_rendered(rendered, rows)
        self._encode_plain(plain, rows)
        return [row for row in rows if row is not None]

    @property
    def explanation(self) -> str:
        """How the learned tokens of a conversation are found, or why there can be none."""
        try:
            return self._renderer.explanation
        except UserError as error:
            return f"conversations cannot be rendered: {error.message}"

    @property
    def template(self) -> str | None:
        """The chat template that the exported model carries; None where there is none."""
        return self._settings.chat_template or self._tokenizer.chat_template

    @property
    def end_of_turn(self) -> str:
        """What ends the assistant's turn; empty where nothing does. Raises UserError as `encode`."""
        return self._renderer.end_of_turn

    @property
    def vocabulary_size(self) -> int:
        """One more than the largest token id."""
        return self._tokenizer.size

    def decode(self, token_ids: Sequence[int]) -> str:
        """Turn token ids into text, special tokens included."""
        return self._tokenizer.decode(token_ids)

    def fingerprint(self) -> dict[str, object]:
        """Everything here that the tokens and masks depend on."""
        files = [self._settings.tokenizer_directory / name for name in TOKENIZER_FILES]
        training = self._training_template()
        return {
            "tokenizer": [_sha256(path) for path in files],
            "template": self.template,
            "training_template": training,
            "loss_on": self._settings.loss_on,
            "labels": self._settings.labels,
            # A template that writes the date gives other tokens tomorrow.
            "date": datetime.now().date().isoformat() if "strftime_now" in (training or "") else None,
        }

    # --- conversations -----------------------------------------------------------------------------------------

    @cached_property
    def _renderer(self) -> RowRenderer:
        if self.template is None:
            raise UserError(
                f"{self._settings.template_origin} has no chat template (neither chat_template.jinja nor one in "
                "tokenizer_config.json). Set dataset.chatTemplate, for example to the template of the model's "
                "instruction-tuned version."
            )
        return choose_renderer(
            self.template,
            self._settings.template_origin,
            self._tokenizer.special_tokens,
            self._settings.loss_on,
        )

    def _training_template(self) -> str | None:
        try:
            return self._renderer.template.source
        except UserError:
            return None

    def _render(self, example: Conversation) -> LearnedText | RowProblem:
        try:
            return self._renderer.render(example)
        except TemplateRefusal as refusal:
            return RowProblem(
                example.place, f"the chat template refuses it ({str(refusal)[:_REASON_CHARACTERS]})"
            )

    def _encode_rendered(
        self, rendered: Sequence[tuple[int, LearnedText]], rows: list[TokenizedRow | RowProblem | None]
    ) -> None:
        encodings = self._tokenizer.encode([text.text for _, text in rendered], add_special_tokens=False)
        for (place, text), encoding in zip(rendered, encodings, strict=True):
            rows[place] = TokenizedRow(
                array.array("i", encoding.ids), learned_mask(encoding, text.learned, len(text.text))
            )

    # --- text without a template -------------------------------------------------------------------------------

    def _encode_plain(
        self,
        plain: Sequence[tuple[int, Continuation | LabelledText]],
        rows: list[TokenizedRow | RowProblem | None],
    ) -> None:
        encodings = self._tokenizer.encode([_text(example) for _, example in plain], add_special_tokens=True)
        for (place, example), encoding in zip(plain, encodings, strict=True):
            if isinstance(example, LabelledText):
                rows[place] = self._labelled(example, encoding)
            else:
                rows[place] = self._continuation(example, encoding)

    def _labelled(self, example: LabelledText, encoding: Encoding) -> TokenizedRow:
        ids = array.array("i", encoding.ids)
        return TokenizedRow(ids, bytes(len(ids)), self._label_numbers[example.label])

    def _continuation(self, example: Continuation, encoding: Encoding) -> TokenizedRow:
        """The text was tokenised whole: a token across the border between given and learned is given."""
        ids = array.array("i", encoding.ids)
        if self._settings.loss_on is LossOn.ALL:
            learned = bytearray(b"\x01" * len(ids))
        else:
            length = len(example.given) + len(example.learned)
            learned = bytearray(learned_mask(encoding, [Span(len(example.given), length)], length))
        if not ids or ids[-1] != self._end_token:
            ids.append(self._end_token)
            learned.append(1)
        # Also where the tokenizer, or the text, has the end token itself.
        learned[-1] = 1
        return TokenizedRow(ids, bytes(learned))

    @cached_property
    def _end_token(self) -> int:
        return self._tokenizer.end_token


def _text(example: Continuation | LabelledText) -> str:
    return example.text if isinstance(example, LabelledText) else example.given + example.learned


def _sha256(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
