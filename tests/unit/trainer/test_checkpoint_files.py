"""Which files of a checkpoint a pod needs."""

from __future__ import annotations

import pytest

from finetune_trainer.checkpoint_files import (
    OPTIMIZER,
    PARAMETERS,
    RANDOM,
    Split,
    decide_needed,
    rank_file_name,
)

NAMES = [rank_file_name(kind, rank) for kind in (OPTIMIZER, PARAMETERS, RANDOM) for rank in range(4)]
OWN = {rank_file_name(kind, rank) for kind in (OPTIMIZER, PARAMETERS, RANDOM) for rank in (2, 3)}
ALL_STATE = {name for name in NAMES if not name.startswith(RANDOM)}
ALL_PARAMETERS = {name for name in NAMES if name.startswith(PARAMETERS)}


@pytest.mark.parametrize(
    ("saved_by", "split", "expected"),
    [
        pytest.param((4, Split.NOTHING), Split.NOTHING, OWN | ALL_STATE, id="every rank holds everything"),
        pytest.param((4, Split.OPTIMIZER), Split.OPTIMIZER, OWN | ALL_PARAMETERS, id="moments are split up"),
        pytest.param((4, Split.EVERYTHING), Split.EVERYTHING, OWN, id="everything is split up"),
        pytest.param((8, Split.EVERYTHING), Split.EVERYTHING, OWN | ALL_STATE, id="saved by more ranks"),
        pytest.param((4, Split.EVERYTHING), Split.NOTHING, OWN | ALL_STATE, id="saved by another strategy"),
        pytest.param((4, Split.OPTIMIZER), Split.EVERYTHING, OWN | ALL_STATE, id="saved with less split up"),
    ],
)
def test_a_pod_needs(saved_by: tuple[int, Split], split: Split, expected: set[str]) -> None:
    is_needed = decide_needed(saved_by, range(2, 4), 4, split)
    assert {name for name in NAMES if is_needed(name)} == expected


@pytest.mark.parametrize(
    "name", ["state.json", "metrics.jsonl", "adalora.safetensors", "parameters-x.safetensors"]
)
def test_what_belongs_to_no_rank_every_pod_needs(name: str) -> None:
    assert decide_needed((4, Split.EVERYTHING), range(1), 4, Split.EVERYTHING)(name)
