"""How well the recognisers do on labelled texts: precision and recall, by kind and over all."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune_api.spec.preparation import Redaction
from finetune_trainer.data.redaction.redactor import Redactor
from finetune_trainer.data.redaction.spans import Span

# A find is right when it is of the labelled kind and this much of both is common: a missing bracket is no mistake,
# half a number is.
_LEAST_OVERLAP = 0.9


@dataclass(frozen=True, slots=True)
class LabelledCase:
    """A text, and every stretch of it that is personal data."""

    text: str
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Score:
    """How many finds were right, how many there were, and how many there should have been."""

    right: int
    found: int
    labelled: int

    @property
    def precision(self) -> float:
        """The share of the finds that are right; 1 where nothing was found."""
        return self.right / self.found if self.found else 1.0

    @property
    def recall(self) -> float:
        """The share of the labels that were found; 1 where there are none."""
        return self.right / self.labelled if self.labelled else 1.0


@dataclass(frozen=True, slots=True)
class Mistake:
    """A case whose finds are not its labels. For labelled sets only: it holds their text."""

    case: LabelledCase
    missed: tuple[Span, ...]
    wrong: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class RedactionMeasurement:
    """The scores of a labelled set."""

    by_kind: Mapping[Redaction, Score]
    overall: Score
    mistakes: tuple[Mistake, ...]

    def as_table(self) -> str:
        """The scores as text, a kind a line."""
        rows = [*((kind.value, score) for kind, score in self.by_kind.items()), ("all", self.overall)]
        lines = [f"{'kind':<10} {'labelled':>8} {'found':>6} {'right':>6} {'precision':>9} {'recall':>7}"]
        lines += [
            f"{name:<10} {score.labelled:>8} {score.found:>6} {score.right:>6}"
            f" {score.precision:>9.4f} {score.recall:>7.4f}"
            for name, score in rows
        ]
        return "\n".join(lines)


def load_cases(path: Path) -> Iterator[LabelledCase]:
    """The cases of a JSON-lines file: `{"text": …, "spans": [{"kind": …, "start": …, "end": …}]}`."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            case = json.loads(line)
            spans = (Span(Redaction(span["kind"]), span["start"], span["end"]) for span in case["spans"])
            yield LabelledCase(case["text"], tuple(spans))


def measure_redaction(cases: Iterable[LabelledCase]) -> RedactionMeasurement:
    """Compare what all recognisers together find with the labels."""
    redactor = Redactor.build(tuple(Redaction))
    right: Counter[Redaction] = Counter()
    found: Counter[Redaction] = Counter()
    labelled: Counter[Redaction] = Counter()
    mistakes: list[Mistake] = []
    for case in cases:
        finds = redactor.find(case.text)
        matched = [(label, find) for label in case.spans for find in finds if _agree(label, find)]
        found.update(find.kind for find in finds)
        labelled.update(label.kind for label in case.spans)
        right.update(label.kind for label, _ in matched)
        mistakes += _mistakes(case, finds, matched)
    by_kind = {kind: Score(right[kind], found[kind], labelled[kind]) for kind in Redaction}
    overall = Score(right.total(), found.total(), labelled.total())
    return RedactionMeasurement(by_kind, overall, tuple(mistakes))


def _agree(label: Span, find: Span) -> bool:
    common = min(label.end, find.end) - max(label.start, find.start)
    longest = max(label.end - label.start, find.end - find.start)
    return label.kind is find.kind and common >= _LEAST_OVERLAP * longest


def _mistakes(
    case: LabelledCase, finds: Sequence[Span], matched: Sequence[tuple[Span, Span]]
) -> Iterator[Mistake]:
    missed = tuple(label for label in case.spans if label not in {label for label, _ in matched})
    wrong = tuple(find for find in finds if find not in {find for _, find in matched})
    if missed or wrong:
        yield Mistake(case, missed, wrong)
