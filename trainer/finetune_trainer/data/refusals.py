"""Data that cannot be trained on: each refusal says what was found, where first, and what to do."""

from __future__ import annotations

from finetune_api.spec import Dataset, InvalidRows, Leakage
from finetune_trainer.data.outcome import Outcome
from finetune_trainer.data.report import Tally, count_reason
from finetune_trainer.data.rows import DropReason, Split
from finetune_trainer.errors import DataError

_ROWS_SHOWN = 10


def refuse_data(dataset: Dataset, outcome: Outcome, rows_per_epoch: int) -> None:
    """Raise DataError for invalid rows that are not allowed, for leakage that is not, and where nothing is left."""
    _refuse_invalid_rows(dataset, outcome.tally)
    _refuse_leakage(dataset, outcome)
    _refuse_no_training_rows(outcome)
    _refuse_no_held_out_rows(dataset, outcome)
    _refuse_empty_epoch(outcome, rows_per_epoch)


def _refuse_invalid_rows(dataset: Dataset, tally: Tally) -> None:
    preparation, invalid = dataset.preparation, tally.rows_dropped_for(DropReason.INVALID)
    if not invalid:
        return
    if preparation.invalid_rows is InvalidRows.FAIL:
        raise DataError(
            f"{_count(invalid, tally)} cannot be used{_first(invalid)}: {_shown(tally)}. "
            "Correct them, or set dataset.preparation.invalidRows: Drop to leave such rows out."
        )
    allowed = preparation.max_invalid_fraction
    if invalid > allowed * tally.rows_read:
        raise DataError(
            f"{_count(invalid, tally)} cannot be used, {invalid / tally.rows_read:.1%}, and "
            f"dataset.preparation.maxInvalidFraction allows {allowed:g} of them{_first(invalid)}: {_shown(tally)}. "
            "Correct them, or raise maxInvalidFraction."
        )


def _count(rows: int, tally: Tally) -> str:
    return f"{rows:,} of {tally.rows_read:,} rows"


def _first(rows: int) -> str:
    return f" (the first {_ROWS_SHOWN})" if rows > _ROWS_SHOWN else ""


def _shown(tally: Tally) -> str:
    return "; ".join(f"{each.where}: {each.why}" for each in tally.first_dropped(DropReason.INVALID))


def _refuse_leakage(dataset: Dataset, outcome: Outcome) -> None:
    leaked = len(outcome.choice.leaked)
    if leaked and dataset.preparation.leakage is Leakage.FAIL:
        pairs = "; ".join(f"{pair.where} says what {pair.repeats} says" for pair in outcome.leaked_pairs)
        raise DataError(
            f"{leaked:,} training rows also stand in the validation or test rows{_first(leaked)}: {pairs}. "
            "Remove them, or set dataset.preparation.leakage: Drop to leave them out of the training rows."
        )


def _refuse_no_training_rows(outcome: Outcome) -> None:
    if len(outcome.choice.rows_of(Split.TRAIN)):
        return
    tally = outcome.tally
    dropped = sorted(tally.dropped(), key=lambda each: -each.rows)
    counts = ", ".join(count_reason(each.reason, each.rows) for each in dropped)
    first = next(
        (f"{each.first[0].where}: {each.first[0].why}" for each in dropped if each.first), "none was read"
    )
    advice = _ADVICE.get(dropped[0].reason, _CORRECT) if dropped else _CORRECT
    raise DataError(
        f"No row of {tally.rows_read:,} is left to train on: {counts} (the first: {first}). {advice}"
    )


_CORRECT = "Correct the rows."
_ADVICE = {
    DropReason.TOO_LONG: "Raise dataset.preparation.maxLength, or set overlong: Truncate to cut rows.",
    DropReason.TOO_SHORT: "Lower dataset.preparation.minLength or minCharacters.",
    DropReason.NOISE: "Correct the rows, or remove what is too strict from dataset.preparation.noise.",
    DropReason.REGEX: "Correct the rows, or the patterns of dataset.preparation.regex.",
    DropReason.NOTHING_TO_LEARN: "Correct the rows, or raise dataset.preparation.maxLength where answers are cut off.",
    DropReason.LEAKAGE: "Bring validation and test rows that are not among the training rows.",
}


def _refuse_no_held_out_rows(dataset: Dataset, outcome: Outcome) -> None:
    rows, validation = outcome.choice.rows_of, dataset.validation
    if validation is not None and not len(rows(Split.VALIDATION)):
        if validation.fraction is not None:
            raise DataError(
                f"dataset.validation.fraction {validation.fraction:g} of {len(rows(Split.TRAIN)):,} rows that differ "
                "leaves none to validate on, or none to train on. Bring more rows, or remove dataset.validation."
            )
        raise DataError(
            "No row of dataset.validation.sources can be used. Correct them; the report says what is wrong."
        )
    if dataset.test is not None and not len(rows(Split.TEST)):
        raise DataError("No row of dataset.test can be used. Correct them; the report says what is wrong.")


def _refuse_empty_epoch(outcome: Outcome, rows_per_epoch: int) -> None:
    if not rows_per_epoch:
        rows = len(outcome.choice.rows_of(Split.TRAIN))
        raise DataError(
            f"The weights of dataset.train let an epoch see none of the {rows:,} training rows. Raise weight, or bring "
            "more rows."
        )
