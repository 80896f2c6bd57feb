"""One way to write each character: Unicode normal forms, and wide letters, digits and spaces made narrow."""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

_WIDE_TO_ASCII = {wide: wide - 0xFEE0 for wide in range(0xFF01, 0xFF5F)}
_IDEOGRAPHIC_SPACE = "\u3000"
_DIGITS = "０-９"
_LETTERS = "Ａ-Ｚａ-ｚ"
_WORD = _DIGITS + _LETTERS
# Signs that join letters and digits and are never Chinese punctuation. `～` is: it stands for "to" in ranges.
_JOINING = "＂＃＄％＆＇＊＋－．／＜＝＞＠［＼］＾＿｀｛｜｝"
_WIDE = re.compile(
    f"[{_WORD}{_IDEOGRAPHIC_SPACE}]+"
    f"|(?<=[{_WORD}])[{_JOINING}]+(?=[{_WORD}])"
    # A comma or a colon inside a number or a time, and the beginning of an address.
    f"|(?<=[{_DIGITS}])[，：](?=[{_DIGITS}])"
    f"|(?<=[{_LETTERS}])：／／(?=[{_WORD}])"
)
_NARROW = {**_WIDE_TO_ASCII, ord(_IDEOGRAPHIC_SPACE): ord(" ")}


def narrow(text: str) -> tuple[str, int]:
    """Write wide letters, digits and spaces as ASCII, and the signs between them; count the characters changed.

    Chinese punctuation (，。！？：；（）) stays wide, since it belongs to the Chinese text around it.
    """
    characters = 0

    def narrowed(match: re.Match[str]) -> str:
        nonlocal characters
        characters += len(match[0])
        return match[0].translate(_NARROW)

    return _WIDE.sub(narrowed, text), characters


def compose(text: str) -> tuple[str, int]:
    """Normal form C; counts 1 for a text that was not in it."""
    return _normal(text, "NFC")


def compose_compatibly(text: str) -> tuple[str, int]:
    """Normal form KC; counts 1 for a text that was not in it."""
    return _normal(text, "NFKC")


def _normal(text: str, form: Literal["NFC", "NFKC"]) -> tuple[str, int]:
    if unicodedata.is_normalized(form, text):
        return text, 0
    return unicodedata.normalize(form, text), 1
