"""The text as the recognisers read it: full-width digits, letters and separators narrow, one character for one.

Positions stay, so that what is found here is cut from the text as it was written.
"""

from __future__ import annotations

import re

# The full-width colon, comma and quotes stay: they end an address or a number and are never part of one.
_WIDE_ASCII = "０-９Ａ-Ｚａ-ｚ＠＋．－（）＿"
_SPACES = "\u00a0\u2002-\u200a\u202f\u3000"
_DASHES = "\u2010-\u2015\u2212"
_WIDE = re.compile(f"[{_WIDE_ASCII}{_SPACES}{_DASHES}]")
_FULL_WIDTH_OFFSET = ord("０") - ord("0")
_IS_SPACE = re.compile(f"[{_SPACES}]")
_IS_DASH = re.compile(f"[{_DASHES}]")


def narrow(text: str) -> str:
    """The text in narrow characters, of the same length."""
    return text if text.isascii() else _WIDE.sub(_narrow_character, text)


def _narrow_character(found: re.Match[str]) -> str:
    character = found[0]
    if _IS_SPACE.match(character):
        return " "
    if _IS_DASH.match(character):
        return "-"
    return chr(ord(character) - _FULL_WIDTH_OFFSET)
