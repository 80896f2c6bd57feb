"""What a checkpoint's files are called, and which of them a pod needs to go on from it. Pure, torch-free."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from enum import StrEnum

# Which rank wrote it stands between: parameters-00000.safetensors.
PARAMETERS, OPTIMIZER, RANDOM = "parameters", "optimizer", "random"
_OF_A_RANK = re.compile(rf"({PARAMETERS}|{OPTIMIZER}|{RANDOM})-(\d+)\.safetensors")


class Split(StrEnum):
    """What of the trained state each rank holds only a part of."""

    NOTHING = "Nothing"
    OPTIMIZER = "Optimizer"
    EVERYTHING = "Everything"


def rank_file_name(kind: str, rank: int) -> str:
    """The file of one rank's parameters, moments or random numbers."""
    return f"{kind}-{rank:05d}.safetensors"


def decide_needed(
    saved_by: tuple[int, Split], ranks: Collection[int], world_size: int, split: Split
) -> Callable[[str], bool]:
    """Say which files a pod needs whose ranks are `ranks`, of a checkpoint of so many ranks that split so much.

    The same ranks that split the same take their own shares; others put theirs together from all.
    """
    is_same = saved_by == (world_size, split)

    def is_needed(name: str) -> bool:
        match = _OF_A_RANK.fullmatch(name)
        if match is None or int(match[2]) in ranks:
            return True
        if match[1] == RANDOM or not is_same:
            return match[1] != RANDOM
        return split is Split.NOTHING or (split is Split.OPTIMIZER and match[1] == PARAMETERS)

    return is_needed
