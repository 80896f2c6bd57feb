"""Takes HTML out of a text: tags, comments, scripts, styles, character references. What is not HTML stays as it is.

`a < b`, `List<int>`, `<name>` in a manual and code in backticks are no HTML. So a tag counts only when its name is an
element of HTML, its attributes are written as HTML has them, and, for elements that must be closed, the text closes
it somewhere. The parser of the standard library cannot be used: it takes all of that for tags, and what it took it
does not give back as it was written.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from html.entities import html5

from finetune_trainer.data.cleaning.html_elements import (
    CELLS,
    ELEMENTS,
    EMPTY,
    EVEN_ALONE,
    LINES,
    PARAGRAPHS,
    WITHOUT_TEXT,
    WITHOUT_VALUE,
)
from finetune_trainer.data.cleaning.protected_spans import hide_code


class _Gap(IntEnum):
    """What a tag leaves between the texts on its sides; of several the largest counts."""

    NONE = 0
    CELL = 1
    LINE = 2
    PARAGRAPH = 3


_WRITTEN_GAP = {_Gap.CELL: "\t", _Gap.LINE: "\n", _Gap.PARAGRAPH: "\n\n"}
_ATTRIBUTE = r"""(?:\s++|(?<=["']))[a-z_:@][\w:.@-]*+(?:\s*+=\s*+(?:"[^"]*+"|'[^']*+'|[^\s"'=<>`]++))?"""
_TOKEN = re.compile(
    r"<!--|<!doctype\b[^<>]*>"
    rf"|</(?P<end>[a-z][a-z0-9]*+)\s*>"
    rf"|<(?P<start>[a-z][a-z0-9]*+)(?P<attributes>(?:{_ATTRIBUTE})*+)\s*/?>"
    r"|&(?P<reference>\#[0-9]{1,7}|\#x[0-9a-f]{1,6}|[a-z][a-z0-9]{1,31});",
    re.IGNORECASE | re.ASCII,
)
_VALUE = re.compile(r"""\s*=\s*(?:"[^"]*"|'[^']*'|[^\s"'=<>`]+)""")
_END_TAG = re.compile(r"</([a-z][a-z0-9]*)\s*>", re.IGNORECASE)
_MAY_BE_HTML = re.compile(r"[<&]")


@dataclass(frozen=True, slots=True)
class _Token:
    """A part of the text that goes: what stands there instead, and the gap it leaves."""

    start: int
    end: int
    written: str = ""
    gap: _Gap = _Gap.NONE


def remove_html(text: str) -> tuple[str, int]:
    """The text without HTML; counts the tags, comments, whole scripts and styles, and character references.

    Blocks become paragraphs or lines, table cells are separated by tabs.
    """
    if not _MAY_BE_HTML.search(text):
        return text, 0
    hidden = hide_code(text)
    tokens = list(_tokens(hidden.text))
    if not tokens:
        return text, 0
    return hidden.restored(_without(hidden.text, tokens)), len(tokens)


# --- what goes -------------------------------------------------------------------------------------------------


def _tokens(text: str) -> Iterator[_Token]:
    end_tags = {name.lower() for name in _END_TAG.findall(text)}
    # Ends that were looked for in vain: so that a scan stays linear.
    missing: set[str] = set()
    position = 0
    while match := _TOKEN.search(text, position):
        token = _token(text, match, end_tags, missing)
        position = token.end if token else match.start() + 1
        if token:
            yield token


def _token(text: str, match: re.Match[str], end_tags: set[str], missing: set[str]) -> _Token | None:
    if match["reference"]:
        written = _character(match["reference"])
        return None if written is None else _Token(match.start(), match.end(), written)
    if written := (match["end"] or match["start"]):
        name = written.lower()
        # `<Button>` and `<Link to="/">` are components of JSX; HTML is written small or, long ago, in capitals.
        if name not in ELEMENTS or written not in (name, name.upper()):
            return None
        if match["start"] and not _is_start_tag(text, match, name, end_tags):
            return None
        end = match.end()
        if match["start"] and name in WITHOUT_TEXT and not match[0].endswith("/>"):
            end = _end_of_element(text, name, end, missing)
        return _Token(match.start(), end, gap=_gap(name))
    if match[0] == "<!--":
        return _comment(text, match.start(), missing)
    return _Token(match.start(), match.end())


def _is_start_tag(text: str, match: re.Match[str], name: str, end_tags: set[str]) -> bool:
    attributes = match["attributes"]
    if not _are_attributes(attributes):
        return False
    if name in end_tags or "=" in attributes or match[0].endswith("/>") or (attributes and name in EMPTY):
        return True
    # `Map<p>` is code, and `end.<p>Next` is an old page.
    before = text[match.start() - 1 : match.start()]
    return name in EVEN_ALONE and not (name not in EMPTY and before.isascii() and before.isalnum())


def _are_attributes(attributes: str) -> bool:
    return all("=" in word or word.lower() in WITHOUT_VALUE for word in _VALUE.sub("=", attributes).split())


def _end_of_element(text: str, name: str, position: int, missing: set[str]) -> int:
    """Where a script, a style or a drawing ends; without an end only its tag goes."""
    if name in missing:
        return position
    found = re.compile(rf"</{name}\s*>", re.IGNORECASE).search(text, position)
    if found is None:
        missing.add(name)
        return position
    return found.end()


def _comment(text: str, start: int, missing: set[str]) -> _Token | None:
    if "-->" in missing:
        return None
    end = text.find("-->", start + 4)
    if end < 0:
        missing.add("-->")
        return None
    return _Token(start, end + 3)


def _gap(name: str) -> _Gap:
    if name in PARAGRAPHS:
        return _Gap.PARAGRAPH
    if name in LINES:
        return _Gap.LINE
    return _Gap.CELL if name in CELLS else _Gap.NONE


def _character(reference: str) -> str | None:
    """The character that a reference stands for; None: there is none of that name."""
    # html.unescape also reads names without a semicolon, which takes URLs apart: `?a=1&copy=2`.
    if not reference.startswith("#") and f"{reference};" not in html5:
        return None
    written = html.unescape(f"&{reference};")
    if written in ("", "\ufffd"):
        return None
    return " " if written == "\xa0" else written


# --- what is left ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Flow:
    """Collects text and gaps. White space beside a gap belongs to the gap."""

    pieces: list[str] = field(default_factory=list)
    line: list[str] = field(default_factory=list)
    gap: _Gap = _Gap.NONE

    def write(self, text: str) -> None:
        self.line.append(text)

    def leave(self, gap: _Gap) -> None:
        """End the line of text before the gap."""
        self._end_line(is_last=False)
        self.gap = max(self.gap, gap)

    def _end_line(self, *, is_last: bool) -> None:
        line = "".join(self.line)
        self.line = []
        if self.gap or self.pieces:
            line = line.lstrip()
        if not is_last:
            line = line.rstrip()
        if not line:
            return
        if self.pieces:
            self.pieces.append(_WRITTEN_GAP[self.gap])
        self.pieces.append(line)
        self.gap = _Gap.NONE

    def text(self) -> str:
        self._end_line(is_last=True)
        return "".join(self.pieces)


def _without(text: str, tokens: list[_Token]) -> str:
    flow = _Flow()
    end = 0
    for token in tokens:
        flow.write(text[end : token.start])
        if token.gap:
            flow.leave(token.gap)
        else:
            flow.write(token.written)
        end = token.end
    flow.write(text[end:])
    return flow.text()
