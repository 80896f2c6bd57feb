"""Which checkpoints are kept: the newest, and the best by their loss on the validation rows."""

from __future__ import annotations

import pytest

from finetune_trainer.retention import Kept, Retention, decide_kept


def rated(**losses: float | None) -> list[Kept]:
    """Checkpoints by step, `s30=0.5`, the newest first."""
    found = [Kept(int(step.removeprefix("s")), loss) for step, loss in losses.items()]
    return sorted(found, key=lambda kept: -kept.step)


UNRATED = rated(s10=None, s20=None, s30=None, s40=None)
FALLING = rated(s10=0.9, s20=0.7, s30=0.5, s40=0.3)
RISING = rated(s10=0.3, s20=0.5, s30=0.7, s40=0.9)


@pytest.mark.parametrize(
    ("found", "keep_last", "keep_best", "expected"),
    [
        pytest.param([], 2, 1, [], id="there is none"),
        pytest.param(UNRATED, 1, 0, [40], id="the newest alone"),
        pytest.param(UNRATED, 2, 0, [40, 30], id="the newest two"),
        pytest.param(UNRATED, 9, 0, [40, 30, 20, 10], id="fewer than may be kept"),
        pytest.param(UNRATED, 2, 3, [40, 30], id="without a loss none is the best"),
        pytest.param(RISING, 1, 0, [40], id="the best is not asked for"),
        pytest.param(RISING, 1, 1, [40, 10], id="the best is older than the newest"),
        pytest.param(RISING, 1, 2, [40, 20, 10], id="the two best are older than the newest"),
        pytest.param(RISING, 2, 9, [40, 30, 20, 10], id="more best ones than there are"),
        pytest.param(FALLING, 2, 1, [40, 30], id="the newest is the best"),
        pytest.param(FALLING, 1, 2, [40, 30], id="the newest and the one before are the best"),
        pytest.param(FALLING, 2, 3, [40, 30, 20], id="the best reach further back than the newest"),
        pytest.param(
            rated(s10=0.5, s20=0.5, s30=0.5, s40=0.6), 1, 1, [40, 10], id="of equally good ones the earliest"
        ),
        pytest.param(
            rated(s10=0.6, s20=0.5, s30=0.5, s40=0.5),
            1,
            2,
            [40, 30, 20],
            id="of equally good ones the earlier ones, not the newest",
        ),
        pytest.param(
            rated(s10=0.4, s20=None, s30=0.3, s40=None, s50=None),
            1,
            1,
            [50, 30],
            id="those without a loss are passed over for the best",
        ),
        pytest.param(
            rated(s10=0.4, s20=None, s30=None, s40=None),
            2,
            1,
            [40, 30, 10],
            id="those without a loss count as the newest all the same",
        ),
        pytest.param(rated(s10=0.0, s20=None, s30=-0.1), 1, 2, [30, 10], id="losses of zero and below"),
    ],
)
def test_kept_are_the_newest_and_the_best(
    found: list[Kept], keep_last: int, keep_best: int, expected: list[int]
) -> None:
    assert decide_kept(found, Retention(keep_last, keep_best)) == expected
