"""How a text is made to fit where a text is bounded: termination messages, status, events."""

from __future__ import annotations

import re

_ELLIPSIS = " …"
_SENTENCE = re.compile(r"(?<=[.!?]) (?=[A-Z])")
# The last sentences of an error say what to do and where the rest stands.
_LAST_SENTENCES = 2
# Where a list of findings may be interrupted, the best place first.
_ENDS = ("\n", "; ", ". ", " ")


def cut(text: str, length: int) -> str:
    """The text within `length` characters: shortened between two findings, with its last sentences where they fit."""
    if len(text) <= length:
        return text
    last = _last_sentences(text, length // 3)
    kept = _interrupt(text, length - len(last) - len(_ELLIPSIS))
    return f"{kept}{_ELLIPSIS}{last}"


def _last_sentences(text: str, length: int) -> str:
    """The last sentences, led by a space, as far as they fit into `length`."""
    starts = [found.start() for found in _SENTENCE.finditer(text)][-_LAST_SENTENCES:]
    return next((text[start:] for start in starts if len(text) - start <= length), "")


def _interrupt(text: str, length: int) -> str:
    """The beginning of the text, up to the last good place in its second half."""
    length = max(length, 0)
    places = (text[: length + 1].rfind(end) + len(end.rstrip()) for end in _ENDS)
    return text[: next((place for place in places if place > length // 2), length)].rstrip()
