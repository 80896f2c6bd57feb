"""A-1, A-2 and A-4: trained tokens a second against the rivals, and what of the computed tokens is padding."""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.bars import Bar, Figure, median_figure
from benchmarks.trainer import llama_factory
from benchmarks.trainer.processes import train, train_by_llama_factory
from benchmarks.trainer.workload import Precision, Workload, draw_lengths, write_workload_rows

OURS = "ours"
HF, HF_GROUPED, TRL, TRL_PACKING = "hf", "hf_grouped", "trl", "trl_packing"
LLAMA_FACTORY = "llama_factory"
RIVALS = (HF, HF_GROUPED, TRL, TRL_PACKING)
LARGEST_PADDING_SHARE = 0.02
EQUAL_ROWS_FACTOR = 0.98
_EQUAL_LENGTH = 128

Results = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Wanted:
    """How much faster ours must be: than the defaults, and than the best of those that avoid padding."""

    learned_percent: int
    defaults: float
    best: float


WANTED = (Wanted(50, 3.5, 1.35), Wanted(100, 2.5, 1.1))


def measure_throughput(
    base: Workload,
    folder: Path,
    rounds: int,
    *,
    precisions: Sequence[Precision],
    wanted_speeds: Sequence[Wanted] = WANTED,
    with_llama_factory: bool = True,
) -> list[Bar]:
    """A-1 and A-4: rows of very different lengths. LLaMA-Factory is only reported: one run each."""
    factory = _install_llama_factory(folder) if with_llama_factory else "left out"
    lengths = draw_lengths(base.global_batch_size * base.steps)
    figures, details, padding = list[Figure](), dict[str, Any](), list[float]()
    for wanted in wanted_speeds:
        rows = folder / f"rows-{wanted.learned_percent}.arrow"
        write_workload_rows(rows, lengths, wanted.learned_percent / 100)
        for precision in precisions:
            workload = replace(base, rows=rows, precision=precision)
            results = run_in_turns((OURS, *RIVALS), workload, folder, rounds)
            name = f"{wanted.learned_percent} % learned, {precision}"
            figures += compare_speed(name, results, wanted)
            if isinstance(factory, Path):
                results[LLAMA_FACTORY] = [train_by_llama_factory(workload, folder / "workload.json", factory)]
            details[name] = summarise(results)
            padding += [each["paddingShare"] for each in results[OURS]]
    if not isinstance(factory, Path):
        details[LLAMA_FACTORY] = factory
    return [
        Bar("A-1", "trained tokens a second against the rivals'", tuple(figures), details),
        Bar(
            "A-4",
            "padding among the tokens ours computes",
            (Figure("padding", max(padding), "of 1", LARGEST_PADDING_SHARE, padding),),
        ),
    ]


def measure_equal_rows(base: Workload, folder: Path, rounds: int, *, precisions: Sequence[Precision]) -> Bar:
    """A-2: rows of equal length, where nobody pads; all tokens learned, so that nothing can be left out either."""
    rows = folder / "rows-equal.arrow"
    write_workload_rows(rows, [_EQUAL_LENGTH] * (base.global_batch_size * base.steps), 1.0)
    figures, details = list[Figure](), dict[str, Any]()
    # Grouped by length is the default where all lengths are equal.
    rivals = (HF, TRL, TRL_PACKING)
    for precision in precisions:
        workload = replace(base, rows=rows, precision=precision)
        results = run_in_turns((OURS, *rivals), workload, folder, rounds)
        best = fastest(results, rivals)
        figures.append(_ratio(f"{precision}: of the best rival's ({best})", results, best, EQUAL_ROWS_FACTOR))
        details[precision] = summarise(results)
    return Bar("A-2", f"rows of {_EQUAL_LENGTH} tokens each", tuple(figures), details)


def run_in_turns(kinds: Sequence[str], workload: Workload, folder: Path, rounds: int) -> Results:
    """A-B-A-B: every round runs each of them once."""
    results: Results = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind in kinds:
            results[kind].append(train(kind, workload, folder / "workload.json"))
    return results


def _install_llama_factory(folder: Path) -> Path | str:
    """Its interpreter, or why there is none."""
    try:
        return llama_factory.install(folder / "llama-factory")
    except (OSError, subprocess.CalledProcessError) as error:
        return f"not installed: {getattr(error, 'stderr', None) or error}"[:500]


# --- what the results say (pure) -------------------------------------------------------------------------------


def compare_speed(name: str, results: Results, wanted: Wanted) -> list[Figure]:
    """Times the speed of both defaults, and of the better of the two that avoid padding."""
    best = fastest(results, (HF_GROUPED, TRL_PACKING))
    return [
        _ratio(f"{name}: against {HF}", results, HF, wanted.defaults),
        _ratio(f"{name}: against {TRL}", results, TRL, wanted.defaults),
        _ratio(f"{name}: against the best ({best})", results, best, wanted.best),
    ]


def fastest(results: Results, kinds: Sequence[str]) -> str:
    """Which of them has the highest median."""
    return max(kinds, key=lambda kind: statistics.median(_speeds(results, kind)))


def summarise(results: Results) -> Mapping[str, Any]:
    """For each kind: tokens a second of every run, and what was padding."""
    return {
        kind: {
            "tokensPerSecond": [round(speed) for speed in _speeds(results, kind)],
            "cpuSeconds": [round(run["cpuSeconds"], 1) for run in runs],
            "seconds": [round(run["seconds"], 1) for run in runs],
            "tokens": runs[0]["tokens"],
            "paddingShare": round(runs[0]["paddingShare"], 4),
            "lastLoss": runs[0]["losses"][-1],
        }
        for kind, runs in results.items()
    }


def _ratio(name: str, results: Results, rival: str, target: float) -> Figure:
    pairs = zip(_speeds(results, OURS), _speeds(results, rival), strict=True)
    return median_figure(name, [ours / theirs for ours, theirs in pairs], "x", target, more_is_better=True)


def _speeds(results: Results, kind: str) -> list[float]:
    return [float(run["tokensPerSecond"]) for run in results[kind]]
