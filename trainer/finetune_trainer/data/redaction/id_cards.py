"""Chinese ID numbers (GB 11643-1999): 18 characters with a check character, and the old form of 15 digits without."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date

from finetune_trainer.data.redaction.boundaries import APART_AFTER, APART_BEFORE
from finetune_trainer.data.redaction.checksums import id_card_check_character
from finetune_trainer.data.redaction.context import follows_reference, is_quantity
from finetune_trainer.data.redaction.spans import Extent

# The first two digits of GB/T 2260: provinces, Taiwan (71; 83 on its residents' permits), Hong Kong (81), Macau (82).
# The permanent residence card of foreigners (2023) has a 9 before the province.
_REGION = re.compile(r"9?(?:1[1-5]|2[1-3]|3[1-7]|4[1-6]|5[0-4]|6[1-5]|71|8[1-3])")
# Check character, region and date together leave nearly nothing to chance, so letters may touch it.
_EIGHTEEN = re.compile(r"(?<![0-9])[1-9][0-9]{5}([ -]?)[0-9]{4}\1?[0-9]{4}\1[0-9]{3}[0-9Xx](?![0-9])")
_FIFTEEN = re.compile(rf"{APART_BEFORE}[1-9][0-9]{{14}}{APART_AFTER}")


def find_id_cards(text: str) -> Iterator[Extent]:
    """Where ID numbers stand."""
    for found in _EIGHTEEN.finditer(text):
        if is_id_card(re.sub("[ -]", "", found[0])):
            yield Extent(*found.span())
    for found in _FIFTEEN.finditer(text):
        if _is_old_id_card(found[0]) and _is_meant(text, *found.span()):
            yield Extent(*found.span())


def is_id_card(number: str) -> bool:
    """Whether 18 characters are an ID number: region, date of birth and check character are right."""
    return (
        len(number) == 18
        and _REGION.match(number) is not None
        and _is_date(number[6:14])
        and id_card_check_character(number[:17]) == number[17].upper()
    )


def _is_old_id_card(number: str) -> bool:
    # Given out until 1999: the year of birth has two digits.
    return _REGION.match(number) is not None and _is_date("19" + number[6:12])


def _is_meant(text: str, start: int, end: int) -> bool:
    return not follows_reference(text, start) and not is_quantity(text, start, end)


def _is_date(digits: str) -> bool:
    try:
        born = date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
    except ValueError:
        return False
    return 1850 <= born.year < 2100
