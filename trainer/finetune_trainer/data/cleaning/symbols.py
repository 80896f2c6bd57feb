"""Leaves out rows that are mostly symbols: ASCII drawings, rows of emoji, broken encodings, tables of dashes.

Of the characters that are no white space at least 30 % must be letters, digits or their marks, in any script (a
Chinese character is a letter). Code passes by far: even dense C or JSON has more than half. Formulas pass too.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from finetune_trainer.data.cleaning.steps import Changes, Drop
from finetune_trainer.data.rows import DropReason, Example, texts_of

SMALLEST_SHARE = 0.3


@dataclass(frozen=True, slots=True)
class SymbolCheck:
    """Drops a row whose texts together are mostly symbols."""

    def run(self, example: Example, changes: Changes) -> Example | Drop:
        """Weigh the letters of a row against everything else."""
        letters = characters = 0
        for text in texts_of(example):
            visible = "".join(text.split())
            characters += len(visible)
            letters += len(visible) if visible.isalnum() else sum(map(str.isalnum, visible))
        if letters >= SMALLEST_SHARE * characters:
            return example
        # Vowel signs of Indic scripts and accents on their own are no letters to isalnum().
        marks = sum(unicodedata.category(each)[0] == "M" for text in texts_of(example) for each in text)
        if letters + marks >= SMALLEST_SHARE * characters:
            return example
        share = (letters + marks) / characters
        return Drop(
            DropReason.NOISE,
            f"only {share:.0%} of its {characters:,} visible characters are letters or digits (noise Symbols asks for "
            f"{SMALLEST_SHARE:.0%})",
        )
