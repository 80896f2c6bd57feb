"""What bench-trainer makes of the runs it has measured, and what it gives them to train on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.bars import Bar, Figure
from benchmarks.trainer.correctness import final_loss
from benchmarks.trainer.import_profile import read_import_profile
from benchmarks.trainer.memory import compare_memory
from benchmarks.trainer.throughput import Wanted, compare_speed, fastest
from benchmarks.trainer.workload import LONGEST, SHORTEST, Workload, draw_lengths, make_rows

IMPORTS = """\
import time: self [us] | cumulative | imported package
import time:       300 |        300 |     torch._C
import time:     50000 |      50300 |   torch
import time:      7000 |      57300 | transformers
a line of the program's own log
import time:       200 |        200 | json
"""


def runs(**speeds: list[float]) -> dict[str, list[dict[str, Any]]]:
    return {kind: [{"tokensPerSecond": speed} for speed in each] for kind, each in speeds.items()}


def memory_runs(ours: float, hf: float, trl: float, loss: float = 9.0) -> dict[str, list[dict[str, Any]]]:
    return {
        kind: [{"peakMiB": 100 + mib, "restingMiB": 100, "losses": [of_kind, 1.0]}]
        for kind, mib, of_kind in (("ours", ours, loss), ("hf", hf, 9.0), ("trl", trl, 9.0))
    }


@pytest.mark.parametrize(
    ("figure", "met"),
    [
        pytest.param(Figure("speed", 3.6, "x", 3.5, more_is_better=True), True, id="more than asked for"),
        pytest.param(Figure("speed", 3.5, "x", 3.5, more_is_better=True), True, id="exactly as much"),
        pytest.param(Figure("speed", 3.4, "x", 3.5, more_is_better=True), False, id="less than asked for"),
        pytest.param(Figure("time", 3.6, "s", 3.5), False, id="less is better unless said otherwise"),
    ],
)
def test_a_target_may_be_the_smallest_good_value(figure: Figure, met: bool) -> None:
    assert figure.met is met


def test_the_result_file_says_which_targets_are_the_smallest_good_value() -> None:
    speed, seconds = Figure("speed", 3.6, "x", 3.5, more_is_better=True), Figure("time", 1.0, "s", 2)

    assert Bar("A-0", "title", (speed, seconds)).as_json()["moreIsBetter"] == {"speed": True, "time": False}
    assert "moreIsBetter" not in Bar("A-0", "title", (seconds,)).as_json()
    assert "≥ 3.5" in str(Bar("A-0", "title", (speed,)))


def test_speeds_are_compared_round_by_round_with_the_defaults_and_the_best_of_the_others() -> None:
    measured = runs(
        ours=[400.0, 800.0, 440.0],
        hf=[100.0, 200.0, 100.0],
        trl=[50.0, 100.0, 55.0],
        hf_grouped=[200.0, 500.0, 220.0],
        trl_packing=[250.0, 260.0, 250.0],
    )

    against_hf, against_trl, against_best = compare_speed("x", measured, Wanted(50, 3.5, 1.35))

    assert (against_hf.value, against_hf.target) == (4.0, 3.5)
    assert list(against_trl.samples) == [8.0, 8.0, 8.0]
    assert fastest(measured, ("hf_grouped", "trl_packing")) == "trl_packing"
    assert against_best.name.endswith("(trl_packing)")
    assert list(against_best.samples) == [1.6, 800 / 260, 1.76]
    assert all(figure.more_is_better for figure in (against_hf, against_trl, against_best))


@pytest.mark.parametrize(
    ("measured", "met"),
    [
        pytest.param(
            memory_runs(50, 100, 50), [True, True, True, True], id="half of the logits, as much as TRL"
        ),
        pytest.param(memory_runs(51, 100, 50), [False, True, True, True], id="more than half of the logits"),
        pytest.param(memory_runs(50, 100, 40), [True, False, True, True], id="more than TRL"),
        pytest.param(memory_runs(50, 100, 50, loss=9.001), [True, True, False, True], id="another loss"),
    ],
)
def test_memory_counts_beyond_what_the_process_holds_at_rest(
    measured: dict[str, list[dict[str, Any]]], met: list[bool]
) -> None:
    assert [figure.met for figure in compare_memory("LoRA", measured)] == met


def test_the_final_loss_is_that_of_the_last_ten_steps() -> None:
    assert final_loss([9.0] * 20 + [1.0, 3.0] * 5) == 2.0


def test_an_import_profile_is_read_by_package_and_by_module() -> None:
    profile = read_import_profile(IMPORTS)

    assert profile["seconds"] == pytest.approx(0.0575)
    assert list(profile["secondsByPackage"]) == ["torch", "transformers", "json"]
    assert profile["secondsByPackage"]["torch"] == pytest.approx(0.0503)
    assert next(iter(profile["secondsWithImports"])) == "transformers"


def test_lengths_spread_as_widely_as_the_plan_says() -> None:
    lengths = draw_lengths(10_000)
    batches = [lengths[start : start + 8] for start in range(0, len(lengths), 8)]
    padding = 1 - sum(lengths) / sum(8 * max(batch) for batch in batches)

    assert (min(lengths), max(lengths)) == (SHORTEST, LONGEST)
    assert padding == pytest.approx(0.58, abs=0.03)
    assert draw_lengths(5) == draw_lengths(5)


@pytest.mark.parametrize(
    ("share", "learned"),
    [
        pytest.param(0.5, 50, id="the second half of a row"),
        pytest.param(1.0, 100, id="a whole row"),
    ],
)
def test_the_end_of_each_row_is_learned(share: float, learned: int) -> None:
    (row,) = make_rows([100], share)

    assert row.learned == bytes(100 - learned) + b"\x01" * learned


def test_rows_have_something_to_learn() -> None:
    rows = make_rows([400] * 50, 1.0)
    followers: dict[int, set[int]] = {}
    for row in rows:
        for word, following in zip(row.input_ids, row.input_ids[1:], strict=False):
            followers.setdefault(word, set()).add(following)

    assert max(map(len, followers.values())) <= 4


def test_a_workload_reaches_its_processes_as_it_was(tmp_path: Path) -> None:
    workload = Workload(
        tmp_path / "model", tmp_path / "rows.arrow", precision="bf16", gradient_checkpointing=True
    )

    assert Workload.load(workload.save(tmp_path / "workload.json")) == workload
