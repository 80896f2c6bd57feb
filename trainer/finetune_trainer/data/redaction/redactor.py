"""Replaces what the recognisers find by placeholders, and counts by kind.

Flow: a text without any digit or `@` is returned as it is (most rows of most data); otherwise the chosen recognisers
read it in narrow characters, overlaps are decided, and the finds are cut from the text as it was written.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from finetune_api.spec.preparation import Redaction
from finetune_trainer.data.redaction.bank_cards import find_bank_cards
from finetune_trainer.data.redaction.emails import find_emails
from finetune_trainer.data.redaction.id_cards import find_id_cards
from finetune_trainer.data.redaction.ip_addresses import find_ip_addresses
from finetune_trainer.data.redaction.narrowing import narrow
from finetune_trainer.data.redaction.phones import find_phones
from finetune_trainer.data.redaction.spans import Finder, Span, without_overlaps

# Stable: models are trained on these words. None has a digit or an `@`, so no recogniser reads one again.
PLACEHOLDERS: Mapping[Redaction, str] = MappingProxyType(
    {
        Redaction.EMAIL: "[EMAIL]",
        Redaction.PHONE: "[PHONE]",
        Redaction.ID_CARD: "[ID_CARD]",
        Redaction.BANK_CARD: "[BANK_CARD]",
        Redaction.IP_ADDRESS: "[IP_ADDRESS]",
    }
)
_FINDERS: Mapping[Redaction, Finder] = MappingProxyType(
    {
        Redaction.EMAIL: find_emails,
        Redaction.PHONE: find_phones,
        Redaction.ID_CARD: find_id_cards,
        Redaction.BANK_CARD: find_bank_cards,
        Redaction.IP_ADDRESS: find_ip_addresses,
    }
)
# Bounds the work on texts made to need a round for every number in them.
_MOST_ROUNDS = 8
# Every kind has a digit or an `@`.
_ANYTHING = re.compile("[0-9@０-９＠]")


@dataclass(frozen=True, slots=True)
class Redacted:
    """A text without personal data, and how many of each kind were replaced (kinds with none are left out)."""

    text: str
    counts: Mapping[Redaction, int]


@dataclass(frozen=True, slots=True)
class Redactor:
    """Recognises the chosen kinds. Small and picklable: it travels to worker processes."""

    kinds: tuple[Redaction, ...]

    @classmethod
    def build(cls, kinds: Collection[Redaction]) -> Redactor:
        """For these kinds, in whatever order they are named."""
        return cls(tuple(kind for kind in Redaction if kind in kinds))

    def redact(self, text: str) -> Redacted:
        """The text with placeholders. Redacting the result again changes nothing."""
        counts: Counter[Redaction] = Counter()
        # What stands beside a placeholder may be recognised in its turn; nearly always the second round finds nothing.
        for _ in range(_MOST_ROUNDS):
            spans = self.find(text)
            if not spans:
                break
            counts.update(span.kind for span in spans)
            text = _replace(text, spans)
        return Redacted(text, dict(counts))

    def find(self, text: str) -> list[Span]:
        """What one reading of the text finds, in order and without overlaps."""
        if not _ANYTHING.search(text):
            return []
        narrowed = narrow(text)
        return without_overlaps(
            Span(kind, *extent) for kind in self.kinds for extent in _FINDERS[kind](narrowed)
        )


def _replace(text: str, spans: list[Span]) -> str:
    parts: list[str] = []
    position = 0
    for span in spans:
        parts += [text[position : span.start], PLACEHOLDERS[span.kind]]
        position = span.end
    return "".join([*parts, text[position:]])
