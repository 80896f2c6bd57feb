"""Says what the report says, in words: the summary line, numbers as people read them, reasons as they say them."""

from __future__ import annotations

from finetune_trainer.data.report.model import DataReport
from finetune_trainer.data.rows import DropReason

# More would not fit into a line of `kubectl describe`.
_REASONS_NAMED = 4

# What stands after a count: "210 duplicates".
REASON_WORDS: dict[DropReason, tuple[str, str]] = {
    DropReason.INVALID: ("invalid", "invalid"),
    DropReason.TOO_SHORT: ("too short", "too short"),
    DropReason.TOO_LONG: ("too long", "too long"),
    DropReason.NOISE: ("noise", "noise"),
    DropReason.REGEX: ("matched by a regex", "matched by a regex"),
    DropReason.NOTHING_TO_LEARN: ("with nothing to learn", "with nothing to learn"),
    DropReason.DUPLICATE: ("duplicate", "duplicates"),
    DropReason.NEAR_DUPLICATE: ("near duplicate", "near duplicates"),
    DropReason.LEAKAGE: ("repeated in validation or test", "repeated in validation or test"),
    DropReason.BALANCE: ("left out for balance", "left out for balance"),
}

REASON_TITLES: dict[DropReason, str] = {
    DropReason.INVALID: "Invalid",
    DropReason.TOO_SHORT: "Too short",
    DropReason.TOO_LONG: "Too long",
    DropReason.NOISE: "Noise",
    DropReason.REGEX: "Regular expression",
    DropReason.NOTHING_TO_LEARN: "Nothing to learn",
    DropReason.DUPLICATE: "Duplicate",
    DropReason.NEAR_DUPLICATE: "Near duplicate",
    DropReason.LEAKAGE: "Leakage",
    DropReason.BALANCE: "Class balance",
}

REASON_REMARKS: dict[DropReason, str] = {
    DropReason.INVALID: "cannot be read, or is not what its format asks for",
    DropReason.TOO_SHORT: "below preparation.minLength or minCharacters",
    DropReason.TOO_LONG: "above preparation.maxLength or maxCharacters",
    DropReason.NOISE: "mostly symbols, or nothing left after cleaning",
    DropReason.REGEX: "an expression of preparation.regex says so, or leaves nothing of it",
    DropReason.NOTHING_TO_LEARN: "no learned token is left in it",
    DropReason.DUPLICATE: "says what an earlier row says",
    DropReason.NEAR_DUPLICATE: "says nearly what an earlier row says",
    DropReason.LEAKAGE: "a training row that validation or test has too",
    DropReason.BALANCE: "of a class that is larger than preparation.balance allows",
}

_CHANGES = {
    "unicode": "Unicode normalised",
    "fullWidth": "Full-width characters narrowed",
    "controlCharacters": "Control characters removed",
    "html": "HTML removed",
    "markup": "Markup removed",
    "redact.Email": "E-mail addresses replaced by [EMAIL]",
    "redact.Phone": "Phone numbers replaced by [PHONE]",
    "redact.IDCard": "ID card numbers replaced by [ID_CARD]",
    "redact.BankCard": "Bank card numbers replaced by [BANK_CARD]",
    "redact.IPAddress": "IP addresses replaced by [IP_ADDRESS]",
}


def describe_change(step: str) -> str:
    """A step of the cleaning in words; one that has no words is named as the job names it."""
    return _CHANGES.get(step, f"preparation.{step}")


def describe_summary(report: DataReport) -> str:
    """The one line that status and event carry."""
    kept = f"Prepared {report.rows_used:,} of {report.rows_read:,} rows{_dropped(report)}"
    return f"{kept}, {_tokens(report)}; longest {report.lengths.longest:,}{_steps(report)}."


def _dropped(report: DataReport) -> str:
    if not report.rows_dropped:
        return ""
    most_first = sorted(report.dropped, key=lambda dropped: -dropped.rows)
    reasons = [count_reason(dropped.reason, dropped.rows) for dropped in most_first[:_REASONS_NAMED]]
    if others := sum(dropped.rows for dropped in most_first[_REASONS_NAMED:]):
        reasons.append(f"{others:,} for other reasons")
    return f" ({report.rows_dropped:,} dropped: {', '.join(reasons)})"


def count_reason(reason: DropReason, rows: int) -> str:
    """A count with the reason's words, such as `1 duplicate`."""
    one, many = REASON_WORDS[reason]
    return f"{rows:,} {one if rows == 1 else many}"


def _tokens(report: DataReport) -> str:
    tokens = f"{short_number(report.tokens)} tokens"
    # A classifier learns its labels, and no token.
    return f"{tokens}, {percent(report.mask_coverage)} learned" if report.learned_tokens else tokens


def _steps(report: DataReport) -> str:
    if report.run is None:
        return ""
    return f"; {plural(report.run.steps_per_epoch, 'step')} an epoch"


def plural(count: float, noun: str) -> str:
    """A count with its noun, such as `1 row` and `2.5 epochs`."""
    written = f"{count:,}" if isinstance(count, int) else f"{count:,g}"
    return f"{written} {noun}" if count == 1 else f"{written} {noun}s"


def short_number(value: int) -> str:
    """A number in at most four figures: 812, 9,841, 12.3 k, 1.2 M."""
    if value < 10_000:
        return f"{value:,}"
    for unit, name in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        # What would round up to 1,000 of a unit is 1 of the next.
        if value >= unit * 0.9995:
            scaled = value / unit
            return f"{scaled:.0f} {name}" if scaled >= 99.95 else f"{scaled:.1f} {name}"
    raise AssertionError(value)


def percent(share: float) -> str:
    """A share in per cent, with a decimal where whole ones would say too little; never all or none where it is not."""
    if 0 < share < 0.001:
        return "< 0.1 %"
    if share in (0, 1) or 0.1 <= share <= 0.99:
        return f"{share * 100:.0f} %"
    return f"{min(share * 100, 99.9):.1f} %"


def as_sentence(text: str) -> str:
    """A phrase with a capital at its start and a full stop at its end, unless it begins with an address or a name."""
    first_word = text.partition(" ")[0]
    start = text[:1].upper() + text[1:] if first_word.isalpha() else text
    return start if not start or start[-1] in ".!?。" else f"{start}."
