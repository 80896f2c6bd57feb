"""Renders conversations by the model's chat template, as transformers does, without transformers and without torch.

Tests compare both on the same conversations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

from finetune_trainer.data.rows import JsonObject, Message
from finetune_trainer.data.template_environment import Blocks, GenerationExtension, Span, build_environment
from finetune_trainer.errors import UserError

_FAILURES_OF_A_TEMPLATE = (
    TypeError,
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
# Any word will do that no template contains.
_PROBE = "finetuneprobe"


class TemplateRefusal(Exception):
    """The template does not render this conversation; the text is its own reason."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as text, and what stood between `{% generation %}` and `{% endgeneration %}`."""

    text: str
    generated: tuple[Span, ...]


class ChatTemplate:
    """One compiled template with the special tokens it may name."""

    def __init__(self, source: str, special_tokens: Mapping[str, str], origin: str) -> None:
        self.source = source
        self.origin = origin
        self._special_tokens = dict(special_tokens)
        environment = build_environment()
        extension = environment.extensions[GenerationExtension.identifier]
        assert isinstance(extension, GenerationExtension)
        self._generation = extension
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise UserError(
                f"The chat template of {origin} is not valid Jinja ({error}). Correct it, or set dataset.chatTemplate."
            ) from error
        self._content_as_parts = False
        self._content_as_parts = self._decide_parts()

    @property
    def has_generation_markers(self) -> bool:
        """Whether the template says itself what the assistant generates."""
        return self._generation.is_used

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[JsonObject] = (),
        *,
        add_generation_prompt: bool = False,
    ) -> Rendered:
        """Render a conversation. Raises TemplateRefusal with the template's own reason."""
        blocks = Blocks()
        self._generation.track(blocks)
        try:
            # Block by block: a generation block learns where it begins from what stands before it.
            for block in self._template.generate(
                messages=[template_message(message, self._content_as_parts) for message in messages],
                tools=list(tools) or None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._special_tokens,
            ):
                blocks.append(block)
        except jinja2.TemplateError as error:
            raise TemplateRefusal(error.message or type(error).__name__) from error
        except _FAILURES_OF_A_TEMPLATE as error:
            raise TemplateRefusal(f"{type(error).__name__}: {error}") from error
        return Rendered("".join(blocks.texts), tuple(blocks.generated))

    def _shows_content(self) -> bool:
        question, answer = Message("user", _PROBE), Message("assistant", _PROBE)
        try:
            return self.render([question, answer]).text.count(_PROBE) == 2
        except TemplateRefusal:
            return False

    def _decide_parts(self) -> bool:
        # Templates of models that see images read `content` as a list of parts, and leave out plain text or fail on it.
        if self._shows_content():
            return False
        self._content_as_parts = True
        return self._shows_content()


def template_message(message: Message, content_as_parts: bool = False) -> dict[str, Any]:
    """A message as templates know it, with the names that transformers gives to reasoning."""
    content = [{"type": "text", "text": message.content}] if content_as_parts else message.content
    fields: dict[str, Any] = {"role": message.role, "content": content}
    if message.thinking is not None:
        fields["thinking"] = fields["reasoning_content"] = message.thinking
    if message.tool_calls:
        fields["tool_calls"] = [
            {
                **({} if call.call_id is None else {"id": call.call_id}),
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        fields["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        fields["name"] = message.name
    return fields
