"""Finds what of a rendered conversation is learned: the assistant's words and the token that ends its turn, no more.

Four ways, tried in this order: TRL's training variant of the model's template (found by the exact text of the
original) → the template's own `{% generation %}` markers → generic spans from growing prefixes → refused.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from finetune_api.spec import LossOn
from finetune_trainer.data.chat_template import ChatTemplate, Span, TemplateRefusal
from finetune_trainer.data.formats import Conversation, Message
from finetune_trainer.errors import UserError

_TRAINING_SUFFIX = "_training.jinja"
# Any word will do that no template contains.
_PROBE = "finetuneprobe"


class MaskSource(StrEnum):
    """How the learned tokens are found."""

    TRAINING_TEMPLATE = "TrainingTemplate"
    GENERATION_MARKERS = "GenerationMarkers"
    GROWING_PREFIXES = "GrowingPrefixes"
    EVERY_TOKEN = "EveryToken"  # noqa: S105 (a word, no secret)


@dataclass(frozen=True)
class LearnedText:
    """A rendered conversation and its learned characters."""

    text: str
    learned: tuple[Span, ...]


class RowRenderer:
    """Renders rows for training, always in the same one of the four ways."""

    def __init__(self, template: ChatTemplate, source: MaskSource, explanation: str) -> None:
        self.template = template
        self.source = source
        self.explanation = explanation
        self.generation_prompt = _generation_prompt(template)
        self.end_of_turn = _end_of_turn(template)

    def render(self, row: Conversation) -> LearnedText:
        """Render a row. Raises TemplateRefusal for this row, UserError where the template allows no mask."""
        rendered = self.template.render(row.messages)
        if self.source is MaskSource.EVERY_TOKEN:
            return LearnedText(rendered.text, (Span(0, len(rendered.text)),))
        spans = rendered.generated
        if self.source is MaskSource.GROWING_PREFIXES:
            spans = self._growing_prefixes(row, rendered.text)
        return LearnedText(rendered.text, tuple(self._fitted(rendered.text, span) for span in spans))

    def _growing_prefixes(self, row: Conversation, text: str) -> tuple[Span, ...]:
        spans = []
        for index, message in enumerate(row.messages):
            if message.role == "assistant":
                before = self.template.render(row.messages[:index], add_generation_prompt=True).text
                after = self.template.render(row.messages[: index + 1]).text
                if not (after.startswith(before) and text.startswith(after)):
                    raise UserError(_not_growing(self.template.origin, row.where, index + 1))
                spans.append(Span(len(before), len(after)))
        return tuple(spans)

    def _fitted(self, text: str, span: Span) -> Span:
        # Markers may take in the end of the generation prompt ("\n" after "assistant") and what separates turns.
        start = _after_overlap(text, span.start, self.generation_prompt)
        end = span.end
        if self.end_of_turn:
            stripped = len(text[start:end].rstrip()) + start
            if text.endswith(self.end_of_turn, start, stripped):
                end = stripped
            elif text.startswith(self.end_of_turn, end):
                end += len(self.end_of_turn)
        return Span(start, max(start, end))


def choose_renderer(
    source: str, origin: str, special_tokens: Mapping[str, str], loss_on: LossOn
) -> RowRenderer:
    """Choose how rows are rendered and masked. Raises UserError for a template that is not valid Jinja."""
    template = ChatTemplate(source, special_tokens, origin)
    if loss_on is LossOn.ALL:
        return RowRenderer(
            template, MaskSource.EVERY_TOKEN, "every token is learned, as dataset.lossOn: All says"
        )
    if (training := find_training_template(source)) is not None:
        name, text = training
        explanation = (
            f"the chat template of {origin} is known: its training variant {name} marks what is learned"
        )
        return RowRenderer(
            ChatTemplate(text, special_tokens, origin), MaskSource.TRAINING_TEMPLATE, explanation
        )
    if template.has_generation_markers:
        explanation = f"the chat template of {origin} marks what is learned by {{% generation %}}"
        return RowRenderer(template, MaskSource.GENERATION_MARKERS, explanation)
    explanation = (
        f"the chat template of {origin} has no markers; each turn was found by rendering growing prefixes"
    )
    renderer = RowRenderer(template, MaskSource.GROWING_PREFIXES, explanation)
    if not renderer.generation_prompt:
        raise UserError(
            f"The chat template of {origin} ignores add_generation_prompt, so it is not known where an answer begins. "
            "Set dataset.chatTemplate to one with {% generation %} markers, or dataset.lossOn: All."
        )
    return renderer


def find_training_template(source: str) -> tuple[str, str] | None:
    """Find the training variant that TRL ships for a model's own template: its file name and its text."""
    for training in sorted(trl_template_directory().glob(f"*{_TRAINING_SUFFIX}")):
        original = training.with_name(training.name.removesuffix(_TRAINING_SUFFIX) + ".jinja")
        if original.is_file() and original.read_text(encoding="utf-8").strip() == source.strip():
            return training.name, training.read_text(encoding="utf-8")
    return None


def trl_template_directory() -> Path:
    """Where TRL's templates stand. TRL itself is not imported: that would bring torch and take seconds."""
    found = importlib.util.find_spec("trl")
    assert found is not None and found.origin is not None, "the extra `prepare` installs trl"
    return Path(found.origin).parent / "chat_templates"


def _generation_prompt(template: ChatTemplate) -> str:
    question = [Message("user", _PROBE)]
    try:
        without = template.render(question).text
        with_prompt = template.render(question, add_generation_prompt=True).text
    except TemplateRefusal:
        return ""
    return with_prompt.removeprefix(without) if with_prompt.startswith(without) else ""


def _end_of_turn(template: ChatTemplate) -> str:
    try:
        text = template.render([Message("user", "?"), Message("assistant", _PROBE)]).text
    except TemplateRefusal:
        return ""
    return text.partition(_PROBE)[2].rstrip()


def _after_overlap(text: str, start: int, prompt: str) -> int:
    if not prompt:
        return start
    found = text.rfind(prompt, max(0, start - len(prompt)), start + len(prompt))
    return found + len(prompt) if 0 <= found <= start < found + len(prompt) else start


def _not_growing(origin: str, where: str, number: int) -> str:
    return (
        f"The chat template of {origin} renders message {number} of {where} otherwise once more messages follow, "
        "so what the model would have to say there is not defined. Set dataset.chatTemplate to one with "
        "{% generation %} markers, or dataset.lossOn: All."
    )


def learned_tokens(offsets: Sequence[tuple[int, int]], learned: Sequence[Span]) -> bytes:
    """Mark with 1 the tokens that lie wholly within a learned span; `offsets` are each token's characters."""
    mask = bytearray(len(offsets))
    token = 0
    for span in learned:
        # A token whose end is not behind the span's start is before it, also where a tokenizer trims white space
        # off its offsets and leaves an empty range.
        while token < len(offsets) and offsets[token][1] <= span.start:
            token += 1
        while token < len(offsets) and offsets[token][1] <= span.end:
            mask[token] = offsets[token][0] >= span.start
            token += 1
    return bytes(mask)
