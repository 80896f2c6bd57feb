"""The check digits that tell a card number or an ID number from any other digits."""

from __future__ import annotations

# What a doubled digit adds up to: 5 -> 10 -> 1 + 0.
_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
# 2^(17 - i) mod 11, and the character for each remainder (GB 11643-1999).
_ID_CARD_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_ID_CARD_CHARACTERS = "10X98765432"


def passes_luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of ISO/IEC 7812-1, as every payment card has it."""
    odd = sum(map(int, digits[-1::-2]))
    even = sum(_DOUBLED[int(digit)] for digit in digits[-2::-2])
    return (odd + even) % 10 == 0


def id_card_check_character(first_17: str) -> str:
    """The 18th character of a Chinese ID number (ISO 7064 MOD 11-2), a digit or `X`."""
    total = sum(int(digit) * weight for digit, weight in zip(first_17, _ID_CARD_WEIGHTS, strict=True))
    return _ID_CARD_CHARACTERS[total % 11]
