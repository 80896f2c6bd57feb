"""Payment cards: a known issuer range, a length that issuer gives out, and the Luhn check digit."""

from __future__ import annotations

import re
from collections.abc import Iterator

from finetune_trainer.data.redaction.boundaries import APART_AFTER, APART_BEFORE
from finetune_trainer.data.redaction.checksums import passes_luhn
from finetune_trainer.data.redaction.context import (
    follows_card_word,
    follows_order,
    follows_reference,
    is_quantity,
)
from finetune_trainer.data.redaction.id_cards import is_id_card
from finetune_trainer.data.redaction.spans import Extent

_UNION_PAY = "62"
# The first digits, from … to …, and the lengths that are given out (ISO/IEC 7812 and the schemes' own rules).
_ISSUERS: tuple[tuple[str, str, tuple[int, ...]], ...] = (
    (_UNION_PAY, _UNION_PAY, (16, 17, 18, 19)),
    ("81", "81", (16, 17, 18, 19)),  # UnionPay, RuPay
    ("95", "95", (16, 17, 18, 19)),  # Chinese cards from before UnionPay's own range
    ("4", "4", (13, 16, 19)),  # Visa; 13 digits are long out of use
    ("51", "55", (16,)),  # Mastercard
    ("2221", "2720", (16,)),
    ("34", "34", (15,)),  # American Express
    ("37", "37", (15,)),
    ("300", "305", (14, 16)),  # Diners Club
    ("3095", "3095", (14, 16)),
    ("36", "36", (14, 16)),
    ("38", "39", (14, 16)),
    ("6011", "6011", (16, 19)),  # Discover
    ("644", "659", (16, 19)),
    ("3528", "3589", (16, 19)),  # JCB
    ("2200", "2204", (16, 19)),  # Mir
    ("60", "60", (16, 19)),  # RuPay, and Chinese cards of 19 digits
    ("82", "82", (16,)),
    ("508", "508", (16,)),
    ("9792", "9792", (16,)),  # Troy
    *((prefix, prefix, (16, 18, 19)) for prefix in ("5018", "5020", "5038", "5893", "6304")),  # Maestro
    *((prefix, prefix, (16, 18, 19)) for prefix in ("6759", "6761", "6762", "6763")),
)
_UNCOMMON_LENGTHS = (13,)
# As they are written: in one piece, in fours, in American Express's or Diners Club's groups, or with the issuer apart.
# Looked ahead for, so that a group that only seems to begin a card does not hide the card that begins with the next.
_SHAPES = re.compile(
    rf"""(?x)
    {APART_BEFORE} (?=(?P<card>
        [0-9]{{13,19}}
      | [0-9]{{4}} (?P<fours>[ -]) [0-9]{{4}} (?P=fours) [0-9]{{4}} (?P=fours) [0-9]{{4}}
        (?P<tail> (?P=fours) [0-9]{{1,3}} (?![0-9]) )?
      | [0-9]{{4}} (?P<six>[ -]) [0-9]{{6}} (?P=six) [0-9]{{4,5}}
      | [0-9]{{6}} [ -] [0-9]{{10,13}}
    ) {APART_AFTER})"""
)


def find_bank_cards(text: str) -> Iterator[Extent]:
    """Where card numbers stand."""
    for found in _SHAPES.finditer(text):
        start = found.start("card")
        end = next((end for end in _possible_ends(found) if _is_bank_card(_digits(text[start:end]))), None)
        if end is not None and _is_meant(text, start, end):
            yield Extent(start, end)


def _possible_ends(found: re.Match[str]) -> list[int]:
    # After four groups of four may stand the rest of a card of 19 digits, as most UnionPay cards have it, or a CVV.
    whole = found.end("card")
    if found["tail"] is None or found["card"].startswith(_UNION_PAY):
        return [whole]
    return [whole, found.start("tail")]


def _is_meant(text: str, start: int, end: int) -> bool:
    digits = _digits(text[start:end])
    if is_id_card(digits) or follows_reference(text, start) or is_quantity(text, start, end):
        return False
    if len(digits) in _UNCOMMON_LENGTHS:
        return follows_card_word(text, start)
    return not follows_order(text, start)


def _is_bank_card(digits: str) -> bool:
    has_issuer = any(
        low <= digits[: len(low)] <= high and len(digits) in lengths for low, high, lengths in _ISSUERS
    )
    return has_issuer and passes_luhn(digits)


def _digits(written: str) -> str:
    return written.replace(" ", "").replace("-", "")
