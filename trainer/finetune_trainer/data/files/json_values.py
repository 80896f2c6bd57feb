"""JSON as strictly as its standard: no NaN, no number beyond a float, and the end of a refused value can be found."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

# Half of a surrogate pair written as an escape, or what `surrogateescape` makes of a byte that is not in the encoding.
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")
LONE_SURROGATE = "contains half of a surrogate pair (\\ud800 to \\udfff), which is no character"


class NotJson(ValueError):
    """A value that is refused; its text says why and quotes nothing of it."""


def _refuse_constant(name: str) -> NoReturn:
    raise NotJson(f"{name} is not a JSON value")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise NotJson("a number is too large")
    return number


# Made once: json.loads with arguments makes a decoder at every call.
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)
_LENIENT = json.JSONDecoder(parse_constant=str, parse_float=str, parse_int=str)


def parse_json(text: str) -> Any:  # noqa: ANN401 (any JSON value)
    """The value of a text that holds exactly one. Raises NotJson."""
    try:
        value = _DECODER.decode(text)
    except NotJson:
        raise
    except json.JSONDecodeError as error:
        raise NotJson(f"{error.msg} at {_position(error)}") from error
    except (ValueError, RecursionError) as error:
        raise NotJson(reason_of(error)) from error
    if _SURROGATE_ESCAPE.search(text) and has_lone_surrogate(value):
        raise NotJson(LONE_SURROGATE)
    return value


def parse_json_at(text: str, start: int) -> tuple[Any, int]:
    """The value that begins at `start`, and where it ends. Raises ValueError (NotJson is one) or RecursionError."""
    return _DECODER.raw_decode(text, start)


def end_of_value(text: str, start: int) -> int:
    """Where a value ends that `parse_json_at` refuses for a number in it. Raises json.JSONDecodeError."""
    return _LENIENT.raw_decode(text, start)[1]


def has_surrogate_escape(text: str, start: int, end: int) -> bool:
    """Whether the text between has an escape that may be half of a pair."""
    return _SURROGATE_ESCAPE.search(text, start, end) is not None


def has_surrogate(text: str) -> bool:
    """Whether a text has what no encoding has: the trace of an undecodable byte."""
    return not text.isascii() and _SURROGATE.search(text) is not None


def has_lone_surrogate(value: object) -> bool:
    """Whether a string of the value cannot be encoded, and so not be tokenised."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def reason_of(error: Exception) -> str:
    """Why Python's parser gave up, without its advice to programmers."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return str(error).split(";")[0]


def _position(error: json.JSONDecodeError) -> str:
    return f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
