"""How well personal data is recognised, on labelled texts that were written before the recognisers.

`pytest -q -s tests/unit/trainer/data/test_redaction_measured.py` prints the figures of docs/redaction.md. The held-out
texts were not looked at while the recognisers were tuned. All names and numbers are invented.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_api.spec.preparation import Redaction
from finetune_trainer.data.redaction.measurement import (
    LabelledCase,
    RedactionMeasurement,
    load_cases,
    measure_redaction,
)
from finetune_trainer.data.redaction.spans import Span

CASES = Path(__file__).parents[3] / "data" / "redaction"
TUNED_ON = tuple(load_cases(CASES / "cases.jsonl"))
HELD_OUT = tuple(load_cases(CASES / "held_out.jsonl"))


def describe_mistakes(measured: RedactionMeasurement) -> str:
    def quote(case: LabelledCase, spans: tuple[Span, ...]) -> list[str]:
        return [f"{span.kind.value} {case.text[span.start : span.end]!r}" for span in spans]

    return "\n".join(
        f"{mistake.case.text!r}: missed {quote(mistake.case, mistake.missed)}, wrong {quote(mistake.case, mistake.wrong)}"
        for mistake in measured.mistakes
    )


def test_precision_and_recall_reach_their_targets_over_all_labelled_texts() -> None:
    whole = measure_redaction([*TUNED_ON, *HELD_OUT])
    for name, measured in (
        (f"{len(TUNED_ON)} texts tuned on", measure_redaction(TUNED_ON)),
        (f"{len(HELD_OUT)} texts held out", measure_redaction(HELD_OUT)),
        (f"all {len(TUNED_ON) + len(HELD_OUT)} texts", whole),
    ):
        print(f"\n{name}\n{measured.as_table()}")
    print(f"\nmistakes\n{describe_mistakes(whole)}")
    assert whole.overall.precision >= 0.98
    assert whole.overall.recall >= 0.95


@pytest.mark.parametrize("kind", Redaction)
def test_no_kind_is_carried_by_the_others(kind: Redaction) -> None:
    score = measure_redaction([*TUNED_ON, *HELD_OUT]).by_kind[kind]
    assert score.precision >= 0.95
    assert score.recall >= 0.95


def test_the_labelled_texts_are_many_and_half_of_them_are_traps() -> None:
    cases = [*TUNED_ON, *HELD_OUT]
    traps = [case for case in cases if not case.spans]
    assert len(cases) >= 300
    assert 0.4 <= len(traps) / len(cases) <= 0.6
    assert len({case.text for case in cases}) == len(cases)


@pytest.mark.parametrize("kind", Redaction)
def test_every_kind_is_labelled_often_enough_to_say_something(kind: Redaction) -> None:
    assert sum(span.kind is kind for case in [*TUNED_ON, *HELD_OUT] for span in case.spans) >= 30


def test_labels_are_stretches_of_their_text() -> None:
    for case in [*TUNED_ON, *HELD_OUT]:
        for span in case.spans:
            labelled = case.text[span.start : span.end]
            assert labelled and labelled == labelled.strip(), case.text
