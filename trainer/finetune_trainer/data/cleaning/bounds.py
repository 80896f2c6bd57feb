"""The bounds on a row's characters, all of its texts together, that hold before it is tokenised."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_trainer.data.cleaning.steps import Changes, Drop
from finetune_trainer.data.rows import DropReason, Example, texts_of


@dataclass(frozen=True, slots=True)
class CharacterBounds:
    """Drops rows that are shorter or longer; None means no bound."""

    fewest: int | None
    most: int | None

    def run(self, example: Example, changes: Changes) -> Example | Drop:
        """Count the characters of all texts."""
        characters = sum(map(len, texts_of(example)))
        if self.fewest is not None and characters < self.fewest:
            return Drop(
                DropReason.TOO_SHORT,
                f"{characters:,} characters, fewer than preparation.minCharacters {self.fewest:,}",
            )
        if self.most is not None and characters > self.most:
            return Drop(
                DropReason.TOO_LONG,
                f"{characters:,} characters, more than preparation.maxCharacters {self.most:,}",
            )
        return example
