"""A bar: what was measured, what it is held to, and whether that was met. Pure; report.py writes it down."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

JsonObject = dict[str, Any]
SIGNIFICANT_DIGITS = 4


@dataclass(frozen=True)
class Figure:
    """One measured number. `target` is the largest value that is good enough; None: it is only reported.

    With `more_is_better` it is the smallest.
    """

    name: str
    value: float
    unit: str
    target: float | None = None
    samples: Sequence[float] = ()
    more_is_better: bool = False

    @property
    def met(self) -> bool:
        """Whether the value is good enough; what has no target cannot be missed."""
        if self.target is None:
            return True
        return math.isfinite(self.value) and (
            self.value >= self.target if self.more_is_better else self.value <= self.target
        )

    def __str__(self) -> str:
        """Say the value, its spread and its target."""
        spread = (
            f" ({_text(min(self.samples))} … {_text(max(self.samples))})" if len(self.samples) > 1 else ""
        )
        bound = "≥" if self.more_is_better else "≤"
        target = f" {bound} {_text(self.target)}" if self.target is not None else ""
        return f"{self.name} {_text(self.value)} {self.unit}{spread}{target}{'' if self.met else ' ✗'}"


@dataclass(frozen=True)
class Bar:
    """One bar of the quality plan, with one figure or several that must all be good enough."""

    identifier: str
    title: str
    figures: tuple[Figure, ...]
    details: Mapping[str, Any] = field(default_factory=dict)
    # Why there are no figures, where the measurement itself broke.
    error: str = ""

    @property
    def met(self) -> bool:
        """Whether every figure is good enough."""
        return not self.error and all(figure.met for figure in self.figures)

    def __str__(self) -> str:
        """Write the bar as one line."""
        verdict = "met   " if self.met else "MISSED"
        if not self.error and all(figure.target is None for figure in self.figures):
            verdict = "      "
        told = self.error or "; ".join(map(str, self.figures))
        return f"{self.identifier:<5} {verdict} {self.title}: {told}"

    def as_json(self) -> JsonObject:
        """Write the bar for the result file; with several figures, each field maps a figure's name to its part."""
        return {
            "title": self.title,
            "value": self._each(lambda figure: _round(figure.value)),
            "target": self._each(lambda figure: figure.target),
            "unit": self._each(lambda figure: figure.unit),
            "met": self.met,
            **self._directions(),
            "samples": self._each(lambda figure: [_round(sample) for sample in figure.samples]),
            **({"details": _rounded(self.details)} if self.details else {}),
            **({"error": self.error} if self.error else {}),
        }

    def _directions(self) -> JsonObject:
        """Which targets are the smallest good value; nothing where all are the largest."""
        if not any(figure.more_is_better for figure in self.figures):
            return {}
        return {"moreIsBetter": self._each(lambda figure: figure.more_is_better)}

    def _each(self, part: Callable[[Figure], object]) -> object:
        match self.figures:
            case ():
                return None
            case (figure,):
                return part(figure)
            case figures:
                return {figure.name: part(figure) for figure in figures}


def broken_bar(identifier: str, title: str, error: BaseException) -> Bar:
    """A bar whose measurement failed: it is missed, and says why."""
    return Bar(identifier, title, (), error=f"{type(error).__name__}: {error}")


def median_figure(
    name: str,
    samples: Sequence[float],
    unit: str,
    target: float | None = None,
    *,
    digits: int | None = None,
    more_is_better: bool = False,
) -> Figure:
    """A figure that is the median of its samples."""
    value = statistics.median(samples)
    return Figure(
        name, value if digits is None else round(value, digits), unit, target, samples, more_is_better
    )


def percentile(samples: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile: the smallest sample that at least `percent` of all samples do not exceed."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def _rounded(value: Any) -> Any:  # noqa: ANN401 (a JSON value)
    match value:
        case float():
            return _round(value)
        case Mapping():
            return {name: _rounded(each) for name, each in value.items()}
        case list() | tuple():
            return [_rounded(each) for each in value]
        case _:
            return value


def _round(value: float) -> float | None:
    """Round for people; JSON has no NaN."""
    if not math.isfinite(value):
        return None
    return value if isinstance(value, int) else float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def _text(value: float) -> str:
    return f"{value:g}" if isinstance(value, int) else f"{value:.{SIGNIFICANT_DIGITS}g}"
