"""Check digits: published examples pass, and the mistakes people make when they type do not."""

from __future__ import annotations

import pytest

from finetune_trainer.data.redaction.checksums import id_card_check_character, passes_luhn
from finetune_trainer.data.redaction.id_cards import is_id_card


@pytest.mark.parametrize(
    "number",
    [
        pytest.param("79927398713", id="the example of ISO/IEC 7812-1, Annex B"),
        pytest.param("4111111111111111", id="Visa's test card"),
        pytest.param("378282246310005", id="American Express's, of odd length"),
    ],
)
def test_published_numbers_pass_luhn(number: str) -> None:
    assert passes_luhn(number)


def test_luhn_finds_every_single_wrong_digit() -> None:
    number = "4111111111111111"
    for position, right in enumerate(number):
        for wrong in set("0123456789") - {right}:
            assert not passes_luhn(number[:position] + wrong + number[position + 1 :])


@pytest.mark.parametrize(
    ("first_17", "character"),
    [
        pytest.param("11010519491231002", "X", id="the example of GB 11643-1999 with X"),
        pytest.param("44052418800101001", "4", id="the example of GB 11643-1999 with a digit"),
    ],
)
def test_the_check_character_is_that_of_the_standard(first_17: str, character: str) -> None:
    assert id_card_check_character(first_17) == character


def test_the_check_character_finds_every_swap_of_neighbours() -> None:
    number = "110105194912310023"[:17]
    for left in range(16):
        swapped = number[:left] + number[left + 1] + number[left] + number[left + 2 :]
        if swapped != number:
            assert id_card_check_character(swapped) != id_card_check_character(number)


@pytest.mark.parametrize(
    ("number", "is_one"),
    [
        pytest.param("11010519491231002X", True, id="right"),
        pytest.param("11010519491231002x", True, id="small x"),
        pytest.param("110105194912310021", False, id="wrong check character"),
        pytest.param(
            f"11010519900229001{id_card_check_character('11010519900229001')}", False, id="no such day"
        ),
        pytest.param(
            f"99010519900228001{id_card_check_character('99010519900228001')}", False, id="no such province"
        ),
        pytest.param(
            f"91105619900228001{id_card_check_character('91105619900228001')}", True, id="permanent residence"
        ),
        pytest.param("1101051949123100", False, id="too short"),
    ],
)
def test_an_id_number_needs_region_date_and_check_character(number: str, is_one: bool) -> None:
    assert is_id_card(number) is is_one
