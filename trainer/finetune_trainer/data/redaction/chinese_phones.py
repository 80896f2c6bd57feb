"""Chinese phone numbers: mobile, land-line and 400/800 numbers, and local ones that are announced as phone numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator

from finetune_trainer.data.redaction.boundaries import (
    APART_AFTER,
    APART_BEFORE,
    NOT_CONTINUED_AFTER,
    NOT_CONTINUED_BEFORE,
)
from finetune_trainer.data.redaction.context import follows_phone_label, follows_phone_word
from finetune_trainer.data.redaction.spans import Extent

_MOBILE = re.compile(
    rf"""(?x)
    {NOT_CONTINUED_BEFORE} (?: (?:\+|00)? 86 [ -]? )?
    1 (?: 3[0-9] | 4[0-9] | 5[0-35-9] | 6[2567] | 7[0-8] | 8[0-9] | 9[0-35-9] )
    (?: [ -]? [0-9]{{4}} [ -]? [0-9]{{4}}
      | \. [0-9]{{4}} \. [0-9]{{4}}
      | [ -] [0-9]{{3}} [ -]? [0-9]{{5}}
      | [0-9] [ -] [0-9]{{3}} [ -] [0-9]{{4}} )
    {NOT_CONTINUED_AFTER}"""
)
_AREA_CODE = r"(?:10|2[0-57-9]|[3-9][0-9]{2})"
_LAND_LINE = re.compile(
    rf"""(?x)
    {APART_BEFORE} (?<!\+)
    (?: \(0{_AREA_CODE}\)[ -]? | 0{_AREA_CODE}[ -] | (?:00)?86[ -]{_AREA_CODE}[ -] )
    [1-9][0-9]{{2,3}} [ -]? [0-9]{{4}} (?: -[0-9]{{2,5}} )?
    {APART_AFTER}"""
)
_SERVICE = re.compile(
    rf"""(?x)
    {APART_BEFORE}
    [48]00 (?P<separator>[ -]?) (?: [0-9]{{3}} (?: (?P=separator) )? [0-9]{{4}} | [0-9]{{4}} (?P=separator) [0-9]{{3}} )
    {APART_AFTER}"""
)
_LOCAL = re.compile(rf"{NOT_CONTINUED_BEFORE}[2-9][0-9]{{2,3}}[ -]?[0-9]{{4}}(?:-[0-9]{{2,5}})?{APART_AFTER}")


def find_chinese_phones(text: str) -> Iterator[Extent]:
    """Where Chinese numbers stand."""
    for found in _MOBILE.finditer(text):
        if not _touches_letter(text, found) or follows_phone_label(text, found.start()):
            yield Extent(*found.span())
    for found in _LAND_LINE.finditer(text):
        yield Extent(*found.span())
    for found in _SERVICE.finditer(text):
        # "400 800 1200" may be three numbers.
        if found["separator"] == "-" or follows_phone_word(text, found.start()):
            yield Extent(*found.span())
    for found in _LOCAL.finditer(text):
        if follows_phone_label(text, found.start()):
            yield Extent(*found.span())


def _touches_letter(text: str, found: re.Match[str]) -> bool:
    around = text[max(0, found.start() - 1) : found.start()] + text[found.end() : found.end() + 1]
    return any(character.isascii() and character.isalpha() for character in around)
