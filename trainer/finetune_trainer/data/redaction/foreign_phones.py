"""Phone numbers of any country: with a country code, or in the grouping their country writes them in.

The rules of the numbering plans are those of `phonenumbers` (Google's libphonenumber), imported only when a text has
something of the right shape.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from finetune_trainer.data.redaction.boundaries import APART_BEFORE, NOT_CONTINUED_AFTER
from finetune_trainer.data.redaction.context import follows_phone_word
from finetune_trainer.data.redaction.spans import Extent

# Here "x204" may follow: it is an extension.
_APART_AFTER = NOT_CONTINUED_AFTER + r"(?!(?!x[0-9]{1,6}(?![0-9A-Za-z]))[A-Za-z])"
_WITH_PLUS = re.compile(r"(?<![0-9A-Za-z_+])\+\(?[1-9][0-9 ().-]{6,24}[0-9]")
# "+1.4142135623" is a number with decimals, unless a phone is spoken of: registries of domains write phones so.
_DECIMAL = re.compile(r"\+[0-9]+\.[0-9]+\Z")
_WITH_ZEROS = re.compile(
    rf"{APART_BEFORE}(?<!\+)00[1-9][0-9]{{0,2}}[ -][0-9 ().-]{{5,18}}[0-9]{_APART_AFTER}"
)
_NORTH_AMERICAN = re.compile(
    rf"""(?x)
    {APART_BEFORE} (?:1[ .-])?
    (?: \([2-9][0-9]{{2}}\) [ ]? [2-9][0-9]{{2}} [ .-]
      | [2-9][0-9]{{2}} (?P<separator>[.-]) [2-9][0-9]{{2}} (?P=separator) )
    [0-9]{{4}} {_APART_AFTER}"""
)
# Groups of digits, the first perhaps in brackets: what a national number may look like.
_GROUPED = re.compile(
    rf"{APART_BEFORE}(?:\([0-9]{{1,5}}\) ?|[0-9]{{2,5}}[ -])(?:[0-9]{{2,8}}[ -]){{0,3}}[0-9]{{2,8}}{_APART_AFTER}"
)
_TEN_OR_ELEVEN = re.compile(rf"{APART_BEFORE}[0-9]{{10,11}}{_APART_AFTER}")
# Zero, an area code, and two groups as long as words: no list of small numbers looks like this.
_THREE_GROUPS = re.compile(r"\(?0[0-9]{1,4}\)?[ -]{0,2}[0-9]{3,4}[ -][0-9]{3,4}")
_WORD = re.compile("[0-9A-Za-z_]")
_REGIONS = ("US", "GB", "JP", "KR", "DE", "FR", "IT", "ES", "IN", "AU", "BR", "RU", "HK", "TW", "SG", "MY")
_NATIONAL_LENGTHS = range(9, 12)


def find_international_phones(text: str) -> Iterator[Extent]:
    """Where numbers with `+` and a country code stand, or with `00` and one."""
    if "+" in text:
        for candidate in _WITH_PLUS.finditer(text):
            if not _is_decimal(text, candidate):
                yield from _match_in(text, candidate.start())
    for candidate in _WITH_ZEROS.finditer(text):
        if _is_valid("+" + candidate[0][2:], None):
            yield Extent(*candidate.span())


def _is_decimal(text: str, candidate: re.Match[str]) -> bool:
    return _DECIMAL.match(candidate[0]) is not None and not follows_phone_word(text, candidate.start())


def _match_in(text: str, start: int) -> Iterator[Extent]:
    # A plus and a country code say enough: the number need only be possible, which also finds ranges that a newer
    # numbering plan than the library's has opened.
    from phonenumbers import Leniency, PhoneNumberMatcher  # 40 ms that texts without phone numbers do not pay

    # One character before and some after decide whether the number is part of something longer.
    offset = max(0, start - 1)
    for found in PhoneNumberMatcher(text[offset : start + 48], None, leniency=Leniency.POSSIBLE):
        end = offset + found.end
        if offset + found.start == start and not _WORD.match(text, end):
            yield Extent(start, end)


def find_national_phones(text: str) -> Iterator[Extent]:
    """Where numbers without a country code stand that are grouped as their country does, or announced as a phone."""
    for found in _NORTH_AMERICAN.finditer(text):
        if _is_valid(found[0], "US"):
            yield Extent(*found.span())
    for found in _GROUPED.finditer(text):
        if _is_national(text, found):
            yield Extent(*found.span())
    for found in _TEN_OR_ELEVEN.finditer(text):
        if follows_phone_word(text, found.start()) and (found[0][0] == "0" or _is_valid(found[0], "US")):
            yield Extent(*found.span())


def _is_national(text: str, found: re.Match[str]) -> bool:
    written = found[0]
    if _THREE_GROUPS.fullmatch(written):
        return _is_announced(text, found) or _is_grouped_as_usual(written)
    return follows_phone_word(text, found.start()) and (
        _is_announced(text, found) or _is_grouped_as_usual(written)
    )


def _is_announced(text: str, found: re.Match[str]) -> bool:
    # Zero is the trunk prefix of most countries: with the word "phone" before it, any grouping will do.
    digits = "".join(re.findall("[0-9]", found[0]))
    return digits[0] == "0" and len(digits) in _NATIONAL_LENGTHS and follows_phone_word(text, found.start())


def _is_grouped_as_usual(written: str) -> bool:
    return any(_is_valid(written, region) and _has_usual_groups(written, region) for region in _REGIONS)


def _is_valid(written: str, region: str | None) -> bool:
    from phonenumbers import NumberParseException, is_valid_number, parse

    try:
        return bool(is_valid_number(parse(written, region)))
    except NumberParseException:
        return False


def _has_usual_groups(written: str, region: str) -> bool:
    from phonenumbers import PhoneNumberFormat, format_number, parse

    usual = format_number(parse(written, region), PhoneNumberFormat.NATIONAL)
    return re.findall("[0-9]+", usual) == re.findall("[0-9]+", written)
