"""The sandbox that chat templates run in: transformers' environment, quicker at what templates do all the time.

The environment, its extension and what a template may see follow transformers/utils/chat_template_utils.py
(Apache-2.0). Templates come from hubs and users, so what jinja's sandbox forbids stays forbidden: the short cuts take
only what it allows, for plain dictionaries, texts and loops.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from types import BuiltinMethodType
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.utils
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment

_DICT_ATTRIBUTES = frozenset(dir(dict))
# Methods that only read; `format` and `format_map`, which jinja wraps, are not among them.
_TEXT_METHODS = frozenset(
    ["endswith", "find", "join", "lower", "lstrip", "partition", "replace", "rstrip", "split", "splitlines"]
).union(["startswith", "strip", "title", "upper"])
_PLAIN_TYPES = frozenset([str, int, bool])
_LOOP_ATTRIBUTES = frozenset(["first", "index", "index0", "last", "length", "nextitem", "previtem"])


@dataclass(frozen=True, slots=True)
class Span:
    """Characters `start` to `end` (exclusive) of a rendered text."""

    start: int
    end: int


class Blocks:
    """The texts of a rendering while it grows, and the spans that were generated."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.length = 0
        self.generated: list[Span] = []

    def append(self, text: str) -> None:
        """Add what was rendered next."""
        self.texts.append(text)
        self.length += len(text)


class GenerationExtension(jinja2.ext.Extension):
    """The tag `{% generation %}`, and the spans it marks."""

    tags = {"generation"}  # noqa: RUF012 (jinja's own declaration)

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self.is_used = False
        self._blocks = Blocks()

    def track(self, blocks: Blocks) -> None:
        """Note the spans of the rendering that begins into `blocks`."""
        self._blocks = blocks

    def parse(self, parser: Parser) -> nodes.CallBlock:
        """Read a block up to `{% endgeneration %}`."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        self.is_used = True
        block = nodes.CallBlock(self.call_method("_generation"), [], [], body)
        block.set_lineno(line)
        return block

    def _generation(self, caller: Callable[[], str]) -> str:
        text = caller()
        start = self._blocks.length
        self._blocks.generated.append(Span(start, start + len(text)))
        return text


class _DictFunction:
    """What templates know as `dict`: no type, so nothing leads from it to Python's insides."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:  # noqa: ANN401
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:  # noqa: ANN401
        return dict.fromkeys(*args, **kwargs)


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


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with short cuts to the same results: it spends most of a rendering on checks of plain values."""

    def getattr(self, obj: Any, attribute: str) -> Any:  # noqa: ANN401 (jinja's own declaration)
        """Look up `obj.attribute`."""
        kind = type(obj)
        if kind is dict and attribute not in _DICT_ATTRIBUTES:
            try:
                return obj[attribute]
            except KeyError:
                return self.undefined(obj=obj, name=attribute)
        if (kind is str and attribute in _TEXT_METHODS) or (
            kind is LoopContext and attribute in _LOOP_ATTRIBUTES
        ):
            return getattr(obj, attribute)
        if kind is _Namespace and not attribute.startswith("_"):
            value = getattr(obj, attribute, None)
            if type(value) in _PLAIN_TYPES:
                return value
        return super().getattr(obj, attribute)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401, N805
        """Call something. Names as in jinja, so that none of a template's own is taken."""
        if (
            type(__obj) is BuiltinMethodType
            and type(__obj.__self__) is str
            and __obj.__name__ in _TEXT_METHODS
        ):
            kwargs.pop("_loop_vars", None)
            kwargs.pop("_block_vars", None)
            return __obj(*args, **kwargs)
        return super().call(__context, __obj, *args, **kwargs)


def build_environment() -> ImmutableSandboxedEnvironment:
    """What a template is compiled in; one template an environment, whose extension knows its spans."""
    environment = _Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationExtension, jinja2.ext.loopcontrols]
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
