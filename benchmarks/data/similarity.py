"""Near duplicates in 100,000 short rows, Chinese and English, of which one in ten repeats an earlier one with an edit.

Each method runs in a process of its own, so that its memory is its own: `python -m benchmarks.data.similarity TFIDF`.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.bars import Bar, Figure
from benchmarks.machine import cpu_seconds, peak_memory_mib

ROOT = Path(__file__).parents[2]
ROWS = 100_000
THRESHOLD = 0.8
NEAR_DUPLICATE_SHARE = 0.1
METHODS = ("TFIDF", "MinHash", "MinHashSignatures")
# Of a whole process, interpreter and libraries included.
MEMORY_MIB = 1_024
_TIMEOUT_SECONDS = 1_800


def measure_similarity(rows: int = ROWS) -> Bar:
    """D-2: how long each method takes and how much memory its process holds at most (VmHWM)."""
    measured = measure(rows)
    figures = [
        figure
        for method in METHODS
        for figure in (
            Figure(f"{method} time", measured[method]["seconds"], "s"),
            Figure(f"{method} memory", measured[method]["peakMemoryMiB"], "MiB", MEMORY_MIB),
        )
    ]
    return Bar("D-2", f"near duplicates in {rows:,} short rows", tuple(figures), measured)


def measure(rows: int = ROWS) -> dict[str, Any]:
    """Run every method on the same rows; per method: seconds, memory, and how many of the edited rows it found.

    An edit of a short row can bring it below the threshold, and more so for MinHash, so not all are to be found.
    """
    return {"rows": rows, "threshold": THRESHOLD, **{method: _measured(method, rows) for method in METHODS}}


def _measured(method: str, rows: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.data.similarity", method, str(rows)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=_TIMEOUT_SECONDS
    )
    assert done.returncode == 0, f"{method} ended with {done.returncode}: {done.stderr[-2000:]}"
    result: dict[str, Any] = json.loads(done.stdout)
    return result


# --- the rows --------------------------------------------------------------------------------------------------


def make_rows(count: int, seed: int = 7) -> tuple[list[str], list[int]]:
    """Rows of words drawn as often as words of a language are, and for each the row it was made from, or -1."""
    source = random.Random(seed)
    languages = (_chinese_words(source), _english_words(source))
    rows: list[str] = []
    made_from: list[int] = []
    for _ in range(count):
        if rows and source.random() < NEAR_DUPLICATE_SHARE:
            made_from.append(source.randrange(len(rows)))
            rows.append(_edited(rows[made_from[-1]], source))
            continue
        words, frequencies, between = source.choice(languages)
        made_from.append(-1)
        rows.append(
            between.join(source.choices(words, cum_weights=frequencies, k=source.randint(8, 30))) + "。"
        )
    return rows, made_from


_Language = tuple[list[str], list[float], str]


def _chinese_words(source: random.Random) -> _Language:
    characters = [chr(code) for code in source.sample(range(0x4E00, 0x9FA0), 3_000)]
    words = ["".join(source.choices(characters, k=source.choice([1, 2, 2, 2, 3]))) for _ in range(8_000)]
    return words, _frequencies(words), ""


def _english_words(source: random.Random) -> _Language:
    syllables = [first + vowel for first in "bcdfghjklmnprstvw" for vowel in "aeiou"]
    words = ["".join(source.choices(syllables, k=source.randint(1, 4))) for _ in range(8_000)]
    return words, _frequencies(words), " "


def _frequencies(words: list[str]) -> list[float]:
    # Zipf's law, flattened at the top.
    return list(accumulate(1 / (rank + 10) for rank in range(len(words))))


def _edited(row: str, source: random.Random) -> str:
    """One small change: a character goes, another comes, or a word is added."""
    at = source.randrange(len(row))
    return row[:at] + source.choice(["", "x", "的", " please "]) + row[at + source.randint(0, 1) :]


# --- one method in a process of its own ------------------------------------------------------------------------


def _search(method: str, folder: Path) -> Callable[[Iterator[str]], Any]:
    if method == "TFIDF":
        from finetune_trainer.data.similarity.tfidf import near_duplicates_tfidf

        return lambda texts: near_duplicates_tfidf(texts, THRESHOLD, directory=folder)
    from finetune_trainer.data.similarity import minhash

    if method == "MinHash":
        return lambda texts: minhash.near_duplicates_minhash(texts, THRESHOLD, directory=folder)
    return lambda texts: minhash.near_duplicates_of_signatures(
        minhash.as_signatures([minhash.minhash_signature(text) for text in texts]), THRESHOLD
    )


def _run(method: str, count: int) -> dict[str, Any]:
    rows, made_from = make_rows(count)
    with TemporaryDirectory() as folder:
        search = _search(method, Path(folder))
        before_mib, started, used = peak_memory_mib(os.getpid()), time.monotonic(), cpu_seconds(os.getpid())
        duplicates = search(iter(rows))
        seconds = time.monotonic() - started
    planted = [row for row, source in enumerate(made_from) if source >= 0]
    found = sum(bool(duplicates.repeats[row] >= 0) for row in planted)
    return {
        "seconds": seconds,
        "cpuSeconds": cpu_seconds(os.getpid()) - used,
        "peakMemoryMiB": peak_memory_mib(os.getpid()),
        "peakMemoryBeforeMiB": before_mib,
        "planted": len(planted),
        "plantedFound": found,
        "otherFound": duplicates.count - found,
        "charactersPerRow": sum(map(len, rows)) / len(rows),
    }


if __name__ == "__main__":
    print(json.dumps(_run(sys.argv[1], int(sys.argv[2]))))
