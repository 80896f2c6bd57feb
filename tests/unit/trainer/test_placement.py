"""Which ranks a pod has, and where it meets the others."""

from __future__ import annotations

import pytest

from finetune_api import names
from finetune_api.spec import Parallelism
from finetune_trainer.errors import UserError
from finetune_trainer.placement import Placement, decide_placement

ADDRESS = "bot-train-1-0.bot-train-1:29500"


def told(index: str, address: str = ADDRESS) -> dict[str, str]:
    return {names.ENV_COMPLETION_INDEX: index, names.ENV_COORDINATOR_ADDRESS: address}


@pytest.mark.parametrize(
    ("nodes", "gpus", "environment", "expected", "ranks"),
    [
        pytest.param(1, 0, {}, Placement(0, 1, 1), [0], id="one process on the CPU"),
        pytest.param(1, 2, {}, Placement(0, 1, 2), [0, 1], id="one pod with two GPUs"),
        pytest.param(1, 1, told("0"), Placement(0, 1, 1), [0], id="one pod needs no coordinator"),
        pytest.param(
            2, 0, told("0"), Placement(0, 2, 1, "127.0.0.1", 29500), [0], id="the first of two CPU pods"
        ),
        pytest.param(
            2,
            0,
            told("1"),
            Placement(1, 2, 1, "bot-train-1-0.bot-train-1", 29500),
            [1],
            id="the second of two CPU pods",
        ),
        pytest.param(
            3,
            4,
            told("2"),
            Placement(2, 3, 4, "bot-train-1-0.bot-train-1", 29500),
            [8, 9, 10, 11],
            id="the last of three pods with four GPUs each",
        ),
    ],
)
def test_a_pod_knows_its_place(
    nodes: int, gpus: int, environment: dict[str, str], expected: Placement, ranks: list[int]
) -> None:
    placement = decide_placement(Parallelism(nodes=nodes, gpus_per_node=gpus), environment)
    assert placement == expected
    assert list(placement.ranks) == ranks
    assert placement.world_size == nodes * max(1, gpus)
    assert placement.is_first_node == (ranks[0] == 0)


@pytest.mark.parametrize(
    "environment",
    [{}, told("2"), told("-1"), told("0", "no-port"), told("0", ":29500"), told("x")],
    ids=[
        "told nothing",
        "an index past the end",
        "a negative index",
        "no port",
        "no host",
        "no number",
    ],
)
def test_a_pod_that_was_not_told_its_place_says_what_is_missing(environment: dict[str, str]) -> None:
    with pytest.raises(UserError, match="JOB_COMPLETION_INDEX and FINETUNE_COORDINATOR_ADDRESS"):
        decide_placement(Parallelism(nodes=2, gpus_per_node=0), environment)
