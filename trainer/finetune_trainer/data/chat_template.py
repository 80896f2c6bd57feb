"""Renders conversations by the model's chat template, as transformers does, without transformers and without torch.

The environment, its extension and what a template may see follow transformers/utils/chat_template_utils.py
(Apache-2.0); tests compare both on the same conversations.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.utils
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from finetune_trainer.data.formats import Message
from finetune_trainer.errors import UserError


class TemplateRefusal(Exception):
    """The template does not render this conversation; the text is its own reason."""


@dataclass(frozen=True)
class Span:
    """Characters `start` to `end` (exclusive) of a rendered text."""

    start: int
    end: int


@dataclass(frozen=True)
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
        environment = _environment()
        extension = environment.extensions[_GenerationExtension.identifier]
        assert isinstance(extension, _GenerationExtension)
        self._generation = extension
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise UserError(
                f"The chat template of {origin} is not valid Jinja ({error}). Correct it, or set dataset.chatTemplate."
            ) from error

    @property
    def has_generation_markers(self) -> bool:
        """Whether the template says itself what the assistant generates."""
        return self._generation.is_used

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> Rendered:
        """Render a conversation. Raises TemplateRefusal with the template's own reason."""
        blocks: list[str] = []
        generated: list[Span] = []
        self._generation.track(blocks, generated)
        try:
            # Block by block: a generation block learns where it begins from what stands before it.
            for block in self._template.generate(
                messages=[{"role": message.role, "content": message.content} for message in messages],
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._special_tokens,
            ):
                blocks.append(block)  # noqa: PERF402 (the extension looks at the list while it grows)
        except jinja2.TemplateError as error:
            raise TemplateRefusal(error.message or type(error).__name__) from error
        except (TypeError, ValueError, KeyError, IndexError, AttributeError, ArithmeticError) as error:
            raise TemplateRefusal(f"{type(error).__name__}: {error}") from error
        return Rendered("".join(blocks), tuple(generated))


class _GenerationExtension(jinja2.ext.Extension):
    tags = {"generation"}  # noqa: RUF012 (jinja's own declaration)

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self.is_used = False
        self._blocks: list[str] = []
        self._generated: list[Span] = []

    def track(self, blocks: list[str], generated: list[Span]) -> None:
        """Note the spans of the rendering that begins into `generated`."""
        self._blocks, self._generated = blocks, generated

    def parse(self, parser: Parser) -> nodes.CallBlock:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        self.is_used = True
        block = nodes.CallBlock(self.call_method("_generation"), [], [], body)
        block.set_lineno(line)
        return block

    def _generation(self, caller: Callable[[], str]) -> str:
        text = caller()
        start = sum(map(len, self._blocks))
        self._generated.append(Span(start, start + len(text)))
        return text


class _DictFunction:
    """What templates know as `dict`: no type, so nothing leads from it to Python's insides."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:  # noqa: ANN401
        return dict(*args, **kwargs)


class _Namespace(jinja2.utils.Namespace):
    """What templates know as `namespace`; underscore names would be a way to Python's insides."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # noqa: ANN401 (`namespace(self=…)` must stay possible)
        attributes = dict(*args[1:], **kwargs)
        for name in attributes:
            _refuse_underscore(name)
        jinja2.utils.Namespace.__init__(args[0], attributes)

    def __setitem__(self, name: str, value: object) -> None:
        _refuse_underscore(name)
        super().__setitem__(name, value)


def _refuse_underscore(name: str) -> None:
    if name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"{name!r} in a namespace begins with an underscore; rename it")


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationExtension, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda layout: datetime.now().strftime(layout)
    environment.globals["dict"] = _DictFunction()
    environment.globals["namespace"] = _Namespace
    return environment


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes characters of HTML.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
