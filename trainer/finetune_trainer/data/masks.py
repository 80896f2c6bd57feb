"""Finds what of a rendered conversation is learned: the assistant's words and the token that ends its turn, no more.

Four ways, tried in this order: TRL's training variant of the model's template (found by the exact text of the
original) → the template's own `{% generation %}` markers → generic spans from growing prefixes → refused.
A turn with `weight: 0` is read and not learned, whichever way it is.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tokenizers import Encoding

from finetune_api.spec import LossOn
from finetune_trainer.data.chat_template import ChatTemplate, Rendered, TemplateRefusal
from finetune_trainer.data.rows import Conversation, Message
from finetune_trainer.data.template_environment import Span
from finetune_trainer.data.turn_shape import (
    Abilities,
    common_length,
    observe_abilities,
    observe_alternation,
    observe_turn_shape,
)
from finetune_trainer.errors import UserError

_TRAINING_SUFFIX = "_training.jinja"
_ENDS_NO_TURN = "; it ends no turn, so the model will not learn where to stop"
_KNOWS_TOOLS = "set dataset.chatTemplate to one that knows tools, or remove them from the row"


class MaskSource(StrEnum):
    """How the learned tokens are found."""

    TRAINING_TEMPLATE = "TrainingTemplate"
    GENERATION_MARKERS = "GenerationMarkers"
    GROWING_PREFIXES = "GrowingPrefixes"
    EVERY_TOKEN = "EveryToken"  # noqa: S105 (a word, no secret)


@dataclass(frozen=True, slots=True)
class LearnedText:
    """A rendered conversation and its learned characters."""

    text: str
    learned: tuple[Span, ...]


class RowRenderer:
    """Renders rows for training, always in the same one of the four ways."""

    def __init__(self, template: ChatTemplate, source: MaskSource, explanation: str) -> None:
        self.template = template
        self.source = source
        self._shape = observe_turn_shape(template)
        self._alternation = observe_alternation(template, self._shape)
        self._shows = observe_abilities(template)
        self.explanation = explanation if self._shape.end_of_turn else explanation + _ENDS_NO_TURN

    @property
    def generation_prompt(self) -> str:
        """What the template puts where the assistant shall answer."""
        return self._shape.generation_prompt

    @property
    def end_of_turn(self) -> str:
        """What ends the assistant's turn; empty where nothing does."""
        return self._shape.end_of_turn

    def render(self, row: Conversation) -> LearnedText:
        """Render a row. Raises TemplateRefusal where the template cannot, leaves something out, or allows no mask."""
        rendered = self.template.render(row.messages, row.tools)
        _refuse_losses(row, rendered.text, self._shows)
        if self.source is not MaskSource.EVERY_TOKEN:
            return LearnedText(rendered.text, tuple(self._learned_answers(row, rendered)))
        whole = Span(0, len(rendered.text))
        if _learns_all_answers(row):
            return LearnedText(rendered.text, (whole,))
        return LearnedText(rendered.text, tuple(_without(whole, self._unlearned_answers(row, rendered))))

    def _learned_answers(self, row: Conversation, rendered: Rendered) -> list[Span]:
        if self.source is MaskSource.GROWING_PREFIXES:
            answers = self._growing_prefixes(row, rendered.text)
        elif _learns_all_answers(row):
            return self._fitted(rendered.text, rendered.generated)
        else:
            answers = self._marked_answers(row, rendered)
        return [span for message, span in answers if message.is_learned]

    def _unlearned_answers(self, row: Conversation, rendered: Rendered) -> list[Span]:
        if self.template.has_generation_markers:
            answers = self._marked_answers(row, rendered)
        else:
            answers = self._growing_prefixes(row, rendered.text)
        return [span for message, span in answers if not message.is_learned]

    def _fitted(self, text: str, marked: Sequence[Span]) -> list[Span]:
        return [self._shape.fit(text, span) for span in _joined(marked)]

    def _marked_answers(self, row: Conversation, rendered: Rendered) -> list[tuple[Message, Span]]:
        """Whose answer each marked span is: a span that begins within the conversation up to a turn is that turn's."""
        answers: list[tuple[Message, Span]] = []
        left = self._fitted(rendered.text, rendered.generated)
        for index, message in enumerate(row.messages):
            if message.role != "assistant":
                continue
            until = common_length(self._prefix(row, index + 1), rendered.text)
            own = [span for span in left if span.start < until]
            if not own:
                raise TemplateRefusal(
                    f"it is not known which marked text is message {index + 1}, so its weight cannot be kept; "
                    "remove weight"
                )
            answers += [(message, span) for span in own]
            left = left[len(own) :]
        return answers

    def _growing_prefixes(self, row: Conversation, text: str) -> list[tuple[Message, Span]]:
        messages = [message for message in row.messages if message.role == "assistant"]
        if self._alternation is not None:
            found = self._alternation.find_answers(text, row.messages)
            if found is not None:
                return list(zip(messages, found, strict=True))
        spans = [
            self._grown(row, index, text)
            for index, message in enumerate(row.messages)
            if message.role == "assistant"
        ]
        return list(zip(messages, spans, strict=True))

    def _grown(self, row: Conversation, index: int, text: str) -> Span:
        before = self.template.render(row.messages[:index], row.tools, add_generation_prompt=True).text
        after = self._prefix(row, index + 1)
        if not (after.startswith(before) and text.startswith(after)):
            raise TemplateRefusal(_not_growing(index + 1))
        return self._shape.fit_end(text, Span(len(before), len(after)))

    def _prefix(self, row: Conversation, count: int) -> str:
        return self.template.render(row.messages[:count], row.tools).text


def choose_renderer(
    source: str, origin: str, special_tokens: Mapping[str, str], loss_on: LossOn
) -> RowRenderer:
    """Choose how rows are rendered and masked. Raises UserError for a template that is not valid, or allows no mask."""
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


# --- what a template leaves out --------------------------------------------------------------------------------


def _refuse_losses(row: Conversation, text: str, shows: Abilities) -> None:
    """Refuse a rendering without what the row has."""
    if row.tools and not shows.tools:
        raise TemplateRefusal(f"it leaves out the tools; {_KNOWS_TOOLS}")
    for number, message in enumerate(row.messages, start=1):
        if message.tool_calls and not shows.tool_calls:
            raise TemplateRefusal(f"it leaves out the tool call of message {number}; {_KNOWS_TOOLS}")
        if message.tool_calls and message.content.strip() and not shows.text_beside_tool_calls:
            raise TemplateRefusal(
                f"it shows either the text or the tool call of message {number}, not both; remove one of them"
            )
        if message.role == "tool" and not shows.tool_results:
            raise TemplateRefusal(f"it leaves out the tool's result, message {number}; {_KNOWS_TOOLS}")
    # Templates leave out the reasoning of earlier turns on purpose; without that of the last, nothing teaches it.
    last = row.messages[-1]
    if last.role == "assistant" and _reasoning_start(last) not in text:
        raise TemplateRefusal(
            f"it leaves out the reasoning of message {len(row.messages)}; set dataset.chatTemplate to one that shows "
            "reasoning, or remove it from the row"
        )


def _reasoning_start(message: Message) -> str:
    """The first words of the reasoning; white space around it and between lines is the template's."""
    reasoning = message.thinking or ""
    if not reasoning and "</think>" in message.content:
        reasoning = message.content.partition("</think>")[0].rpartition("<think>")[2]
    return reasoning.strip().partition("\n")[0][:64].strip()


# --- spans -----------------------------------------------------------------------------------------------------


def _learns_all_answers(row: Conversation) -> bool:
    return all(message.is_learned for message in row.messages if message.role == "assistant")


def _joined(spans: Sequence[Span]) -> list[Span]:
    """Spans that touch are one: some templates mark an answer and its end apart."""
    joined: list[Span] = []
    for span in spans:
        if joined and joined[-1].end == span.start:
            joined[-1] = Span(joined[-1].start, span.end)
        else:
            joined.append(span)
    return joined


def _without(whole: Span, holes: Sequence[Span]) -> list[Span]:
    starts = [whole.start, *(hole.end for hole in holes)]
    ends = [*(hole.start for hole in holes), whole.end]
    return [Span(start, end) for start, end in zip(starts, ends, strict=True) if start < end]


def _not_growing(number: int) -> str:
    return (
        f"it renders message {number} otherwise once more messages follow, so what the model would have to say there "
        "is not defined; set dataset.chatTemplate to one with {% generation %} markers, or dataset.lossOn: All"
    )


def learned_mask(encoding: Encoding, learned: Sequence[Span], length: int) -> bytes:
    """Mark with 1 the tokens that lie wholly within a learned span of a text of `length` characters.

    Only the tokens at the ends of the spans are looked at, where those have characters: the offsets of all tokens cost
    more than the rest of the mask.
    """
    mask = bytearray(len(encoding))
    for span in learned:
        first = _first_token_behind(encoding, span.start, length)
        stop = _first_token_across(encoding, span.end, length)
        if first is None or stop is None:
            return learned_tokens(encoding.offsets, learned)
        if first < stop:
            mask[first:stop] = b"\x01" * (stop - first)
    return bytes(mask)


def _first_token_across(encoding: Encoding, character: int, length: int) -> int | None:
    """The first token with this character; None where no token has it, because white space is trimmed off offsets."""
    if character >= length:
        return len(encoding)
    found: int | None = encoding.char_to_token(character)
    return found


def _first_token_behind(encoding: Encoding, character: int, length: int) -> int | None:
    """The first token that begins with this character or behind it."""
    token = _first_token_across(encoding, character, length)
    while token is not None and token < len(encoding) and encoding.token_to_chars(token)[0] < character:
        token += 1
    return token


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
