"""Hides the parts of a text that cleaning must not touch, code and formulas, and puts them back afterwards.

A hidden part is one private-use character that the text does not have, so that marks around it still find each
other: `**use `x` now**`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_CODE = r"^[ ]{0,3}(?P<fence>`{3,}|~{3,})[^\n`]*$ | (?P<ticks>`+) | (?P<tag>\[code[^\]\n]{0,40}\])"
_FORMULA = (
    r"(?P<math>\$\$|\\\(|\\\[) | \\begin\{(?P<environment>[A-Za-z]{1,40}\*?)\}"
    # As in Pandoc: no space inside next to the dollars, no digit behind them, or it is money.
    r" | (?P<dollars>\$(?![\s$])[^$\n]{1,500}?(?<!\s)\$(?!\d))"
)
_CODE_OPENING = re.compile(_CODE, re.MULTILINE | re.VERBOSE | re.IGNORECASE)
_OPENING = re.compile(f"{_CODE} | {_FORMULA}", re.MULTILINE | re.VERBOSE | re.IGNORECASE)
_CLOSING_OF_MATH = {"$$": "$$", r"\(": r"\)", r"\[": r"\]"}
# Inline code and formulas are short; a longer distance means that two stray marks met.
_INLINE_CHARACTERS = 2_000
# Supplementary private-use areas; nobody assigns meaning to them.
_PRIVATE = (range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))
_IS_PRIVATE = re.compile("[\U000f0000-\U000ffffd\U00100000-\U0010fffd]")


@dataclass(frozen=True, slots=True)
class Hidden:
    """A text whose protected parts are single characters, and what these stand for."""

    text: str
    parts: dict[str, str]

    def restored(self, text: str) -> str:
        """Put the protected parts back into what became of the text."""
        if not self.parts:
            return text
        return _IS_PRIVATE.sub(lambda match: self.parts.get(match[0], match[0]), text)


def hide_code(text: str) -> Hidden:
    """Hide fenced and inline code."""
    return _hidden(text, _CODE_OPENING) if "`" in text or "~~~" in text or "[" in text else Hidden(text, {})


def hide_code_and_formulas(text: str) -> Hidden:
    """Hide fenced and inline code, and LaTeX."""
    return _hidden(text, _OPENING)


def _hidden(text: str, opening: re.Pattern[str]) -> Hidden:
    parts: dict[str, str] = {}
    pieces: list[str] = []
    end = 0
    stand_ins = _stand_ins(text)
    for start, stop in _spans(text, opening):
        if (stand_in := next(stand_ins, None)) is None:
            break
        parts[stand_in] = text[start:stop]
        pieces += text[end:start], stand_in
        end = stop
    return Hidden("".join([*pieces, text[end:]]), parts) if parts else Hidden(text, parts)


def _stand_ins(text: str) -> Iterator[str]:
    taken = set(_IS_PRIVATE.findall(text))
    return (each for area in _PRIVATE for code in area if (each := chr(code)) not in taken)


def _spans(text: str, opening: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    # An end that was not found once is not found further on either: so that a scan stays linear.
    missing: set[str] = set()
    position = 0
    while match := opening.search(text, position):
        end = _end_of(text, match, missing)
        position = match.end() if end is None else end
        if end is not None:
            yield match.start(), end


def _end_of(text: str, match: re.Match[str], missing: set[str]) -> int | None:
    """Where the part that begins here ends; None: it is no such part."""
    word, after = match[match.lastgroup or 0], match.end()
    match match.lastgroup:
        case "dollars":
            return after
        case "fence":
            return _end_of_fence(text, after, word)
        case "ticks":
            closing = re.compile(f"(?<!`)`{{{len(word)}}}(?!`)")
            found = closing.search(text, after, after + _INLINE_CHARACTERS)
            return found.end() if found else None
        case "math":
            at = text.find(_CLOSING_OF_MATH[word], after, after + 2 * _INLINE_CHARACTERS)
            return at + 2 if at >= 0 else None
        case "tag":
            return _find_end(text, f"[/{word[1:5]}]", after, missing)
        case _:
            return _find_end(text, f"\\end{{{word}}}", after, missing)


def _end_of_fence(text: str, position: int, fence: str) -> int:
    # As in CommonMark: at least as many of the same character; a fence that is never closed runs to the end.
    closing = re.compile(rf"^[ ]{{0,3}}{fence[0]}{{{len(fence)},}}[ \t]*$", re.MULTILINE)
    found = closing.search(text, position)
    return found.end() if found else len(text)


def _find_end(text: str, closing: str, position: int, missing: set[str]) -> int | None:
    if closing in missing:
        return None
    found = text.find(closing, position)
    if found < 0:
        missing.add(closing)
        return None
    return found + len(closing)
