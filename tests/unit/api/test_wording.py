"""A text that is too long is cut where it hurts least."""

from __future__ import annotations

import pytest

from finetune_api.wording import cut

# The text, its bound, and what becomes of it.
CUTS = {
    "a text that fits": ("All is well.", 12, "All is well."),
    "no place to cut at": ("x" * 20, 10, "xxxxxxxx …"),
    "between words": ("alpha beta gamma delta", 18, "alpha beta gamma …"),
    "between lines rather than words": ("alpha beta\ngamma delta epsilon", 19, "alpha beta …"),
    "between findings rather than words": ("1: one two; 2: three four five six", 20, "1: one two; …"),
    "not at a place that would lose most of it": ("a; bcdefghijklmnopqrstuvwxyz", 20, "a; bcdefghijklmnop …"),
    "the last two sentences stay": (
        "9 rows are bad: 1: aaaa aaaa; 2: bbbb bbbb; 3: cccc cccc; 4: dddd dddd. Mend them. See a.b.",
        70,
        "9 rows are bad: 1: aaaa aaaa; 2: bbbb bbbb; … Mend them. See a.b.",
    ),
    "only the last sentence has room": (
        "Something long went wrong here and there. It has a long explanation of its own. Mend it.",
        40,
        "Something long went wrong … Mend it.",
    ),
    "a last sentence that is too long goes": (
        "Bad. " + "Because of this and that. " * 3,
        30,
        "Bad. Because of this and …",
    ),
}


@pytest.mark.parametrize(("text", "length", "shortened"), CUTS.values(), ids=CUTS.keys())
def test_a_text_is_cut_where_it_hurts_least(text: str, length: int, shortened: str) -> None:
    assert cut(text, length) == shortened


@pytest.mark.parametrize("length", range(2, 120))
def test_a_cut_text_is_never_longer_than_it_may_be(length: int) -> None:
    text = "3 rows: line 1: 空; line 2: bad. Correct them. Report: s3://models/bot/data-report.html\nand more; too"

    assert len(cut(text * 3, length)) <= length
