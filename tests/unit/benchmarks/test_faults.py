"""The file of the fault tests' figures: each test adds its own, and leaves those of others."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.faults import count_bar, record


def test_bars_of_several_tests_stand_in_one_file(tmp_path: Path) -> None:
    path = tmp_path / "results" / "faults.json"
    record(count_bar("B-8", "seeded damage", good=50, of=50, unit="mutations", problems=[]), path=path)
    bar = count_bar("B-5", "kills", good=199, of=200, unit="kills", problems=["seed 7: torn"])
    record(bar, path=path, seconds=1.5)
    content = json.loads(path.read_text())
    assert list(content["bars"]) == ["B-5", "B-8"]
    kept, missed = content["bars"]["B-8"], content["bars"]["B-5"]
    assert (kept["value"], kept["target"], kept["unit"], kept["met"]) == (50, 50, "mutations", True)
    assert (missed["value"], missed["target"], missed["unit"], missed["met"]) == (199, 200, "kills", False)
    assert missed["details"] == {"problems": ["seed 7: torn"]}
    assert missed["run"]["seconds"] == 1.5
    assert {"machine", "versions"} <= content.keys()


def test_a_bar_that_is_counted_again_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "faults.json"
    for good in (1, 2):
        record(count_bar("B-5", "kills", good=good, of=2, unit="kills", problems=[]), path=path)
    content = json.loads(path.read_text())
    assert list(content["bars"]) == ["B-5"]
    assert content["bars"]["B-5"]["met"] is True
