"""The sandbox's short cuts give what jinja's own sandbox gives, values and refusals alike."""

from __future__ import annotations

from typing import Any

import jinja2
import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from finetune_trainer.data.template_environment import build_environment

VALUES: dict[str, Any] = {
    "message": {"role": "user", "content": " Hi ", "items": "an item", "get": "got", "_secret": "hidden"},
    "text": "a-b-c",
    "numbers": [1, 2, 3],
}
EXPRESSIONS = [
    "message.role",
    "message['role']",
    "message.missing",
    "message.missing is defined",
    "message.missing.deeper",
    "message.items",
    "message.items() | list",
    "message.get('role')",
    "message.get",
    "message.pop('role')",
    "message.update({'a': 1})",
    "message['update']",
    "message._secret",
    "message['_secret']",
    "message.__class__",
    "message.__class__.__mro__",
    "text.upper()",
    "text.split('-')[-1]",
    "text.split(sep='-', maxsplit=1)",
    "text.startswith('a') and not text.endswith('a')",
    "text.replace('a', 'b').strip('b').lstrip('-')",
    "text.join(['1', '2'])",
    "text.format(1)",
    "'{0.__class__}'.format(text)",
    "'{a.__class__}'.format_map({'a': text})",
    "text.__class__",
    "text.__len__()",
    "text.encode()",
    "text.split(1)",
    "text.nothing",
    "text | attr('upper')",
    "text.upper.__self__",
    "numbers.append(4)",
    "numbers.index(2)",
    "numbers.__class__",
    "cycler.__init__",
    "range(3) | list",
    "range(99999999)",
]
TEMPLATES = [
    *(f"{{{{ {expression} }}}}" for expression in EXPRESSIONS),
    "{% for number in numbers %}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem }}{% endfor %}",
    "{% for number in numbers %}{{ loop.cycle('a', 'b') }}{{ loop.changed(number) }}{% endfor %}",
    "{% for number in numbers %}{{ loop._iterator }}{% endfor %}",
    "{% for number in numbers %}{{ loop.__class__ }}{% endfor %}",
    "{% for number in numbers %}{{ text.upper() }}{{ message.content.strip() }}{% endfor %}",
    "{% set ns = namespace(found=false, items=[1]) %}{% set ns.found = true %}{{ ns.found }}{{ ns.items }}{{ ns.nothing }}",
    "{% set ns = namespace(found=false) %}{{ ns.__doc__ }}",
    "{% set ns = namespace(found=false) %}{{ ns.__class__ }}",
    "{% macro shout(word) %}{{ word.upper() }}{% endmacro %}{{ shout(text) }}{{ shout.name }}",
    "{% macro shout(word) %}{{ word }}{% endmacro %}{{ shout.__globals__ }}",
]


def render(environment: ImmutableSandboxedEnvironment, source: str) -> str:
    try:
        return environment.from_string(source).render(**VALUES)
    except (jinja2.TemplateError, TypeError, OverflowError) as error:
        return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("source", TEMPLATES)
def test_a_short_cut_changes_no_result(source: str) -> None:
    theirs = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    result, expected = render(build_environment(), source), render(theirs, source)
    # The one difference is meant: our namespace is not jinja's class.
    assert result.replace("_Namespace", "Namespace") == expected
