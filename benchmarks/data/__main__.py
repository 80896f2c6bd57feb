"""`make bench-data`: measures the prepare stage, prints a line for each bar, writes benchmarks/results/data.json."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bars import Bar, Figure, median_figure
from benchmarks.data.corpus import write_rows, write_tokenizer
from benchmarks.data.environment import install_prepare_environment
from benchmarks.data.memory import run_watched
from benchmarks.data.second_prepare import measure_second_prepare
from benchmarks.data.similarity import measure_similarity
from benchmarks.runner import Benchmark

PACKAGES = (
    "tokenizers",
    "transformers",
    "datasets",
    "pyarrow",
    "scikit-learn",
    "datasketch",
    "jinja2",
    "finetune-operator",
)
MEMORY_MIB = 2048
_OURS, _RIVAL = "benchmarks.data.ours", "benchmarks.data.rival"


@dataclass(frozen=True)
class Scale:
    """Numbers of rows and rounds."""

    compared_rows: int
    rounds: int
    second_rows: int
    many_rows: int
    similar_rows: int


FULL = Scale(compared_rows=100_000, rounds=3, second_rows=20_000, many_rows=1_000_000, similar_rows=100_000)
QUICK = Scale(compared_rows=2_000, rounds=1, second_rows=500, many_rows=6_000, similar_rows=2_000)


def measure_throughput(scale: Scale, folder: Path) -> Sequence[Bar]:
    """A-8: our whole pipeline and the rival's `map` alone take turns."""
    tokenizer = str(write_tokenizer(folder / "tokenizer"))
    rows = str(write_rows(folder / "rows.jsonl", scale.compared_rows))
    image = install_prepare_environment(folder / "image")
    ours, rival, checks = list[float](), list[float](), []
    for _ in range(scale.rounds):
        for module, python, seconds in ((_OURS, image, ours), (_RIVAL, sys.executable, rival)):
            printed = run_watched(module, [rows, tokenizer, str(folder / "work")], python).printed
            seconds.append(float(printed["seconds"]))
            checks.append((printed["rows"], printed["tokens"]))
    assert len(set(checks)) == 1, f"both must make the same tokens: {checks}"
    ratios = [mine / theirs for mine, theirs in zip(ours, rival, strict=True)]
    first, second = measure_second_prepare(scale.second_rows, scale.rounds)
    return [
        Bar(
            "A-8",
            f"{scale.compared_rows:,} chat rows, and the same job again",
            (
                median_figure("time of datasets.map(num_proc=2)", ratios, "x", 1.0),
                median_figure("ours", ours, "s"),
                median_figure("datasets.map", rival, "s"),
                median_figure("second prepare", second, "s", 1.0),
                Figure("first prepare", first, "s"),
            ),
            {"tokens": checks[0][1], "rowsPerSecond": round(scale.compared_rows / min(ours))},
        )
    ]


def measure_memory(scale: Scale, folder: Path) -> Sequence[Bar]:
    """D-1: all processes of the preparation of many rows, exact duplicates looked for."""
    tokenizer = str(write_tokenizer(folder / "tokenizer"))
    rows = str(write_rows(folder / "rows.jsonl", scale.many_rows))
    watched = run_watched(
        _OURS,
        [rows, tokenizer, str(folder / "work"), "--duplicates", "Exact"],
        install_prepare_environment(folder / "image"),
    )
    return [
        Bar(
            "D-1",
            f"{scale.many_rows:,} short rows",
            (
                Figure("memory", watched.peak_mib, "MiB", MEMORY_MIB),
                Figure("time", float(watched.printed["seconds"]), "s"),
            ),
            {"tokens": watched.printed["tokens"]},
        )
    ]


def measure_near_duplicates(scale: Scale, folder: Path) -> Sequence[Bar]:
    """D-2: near duplicates by TF-IDF and by MinHash."""
    del folder
    return [measure_similarity(scale.similar_rows)]


BENCHMARK = Benchmark(
    "data",
    __doc__,
    PACKAGES,
    {
        "A-8": measure_throughput,
        "D-1": measure_memory,
        "D-2": measure_near_duplicates,
    },
    full=FULL,
    quick=QUICK,
)


if __name__ == "__main__":
    sys.exit(BENCHMARK.run(sys.argv[1:]))
