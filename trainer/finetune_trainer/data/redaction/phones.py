"""Phone numbers: Chinese ones, those with a country code, and those of other countries that stand in a known grouping.

The same digits may be an order, a price or a date, so three things decide: the shape, the words before, and what
touches the number. Short service numbers (110, 10086, 95588) belong to nobody and stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from finetune_trainer.data.redaction.chinese_phones import find_chinese_phones
from finetune_trainer.data.redaction.context import follows_reference, is_quantity
from finetune_trainer.data.redaction.foreign_phones import find_international_phones, find_national_phones
from finetune_trainer.data.redaction.spans import Extent

# Nothing shorter than a local number of seven digits is a phone number.
_SEVEN_DIGITS = re.compile(r"[0-9](?:[ ().-]{0,3}[0-9]){6}")
_EXTENSION = re.compile(
    r"(?i)[ ,，]{0,2}(?:转|轉|分机|分機|内线|ext(?:ension|n)?\b\.?|x(?=[0-9]))[ :：]?[0-9]{1,6}(?![0-9])"
)


def find_phones(text: str) -> Iterator[Extent]:
    """Where phone numbers stand, with country code and extension."""
    if not _SEVEN_DIGITS.search(text):
        return
    for finder in (find_chinese_phones, find_international_phones, find_national_phones):
        for found in finder(text):
            if not _is_other_number(text, found):
                yield _with_extension(text, found)


def _is_other_number(text: str, found: Extent) -> bool:
    # A country code says more than the word "order" before it.
    is_reference = text[found.start] != "+" and follows_reference(text, found.start)
    return is_reference or is_quantity(text, *found)


def _with_extension(text: str, found: Extent) -> Extent:
    extension = _EXTENSION.match(text, found.end)
    return Extent(found.start, extension.end()) if extension else found
