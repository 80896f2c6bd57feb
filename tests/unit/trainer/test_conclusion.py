"""How an attempt ended, as its ranks tell: the root cause, and which rank it was."""

from __future__ import annotations

import signal

import pytest

from finetune_api.exit_codes import ExitCode
from finetune_api.termination import TrainedFacts
from finetune_trainer.conclusion import conclude
from finetune_trainer.errors import (
    NonFiniteLoss,
    OutOfMemory,
    Preempted,
    RankLost,
    StageError,
    StorageUnavailable,
    UserError,
)
from finetune_trainer.rank_processes import RankEnd
from finetune_trainer.termination import failure_of
from finetune_trainer.work_directory import RankResult

FACTS = TrainedFacts(step=10, loss=1.0, checkpoint_uri=None)


def make_result(
    rank: int, exit_code: int, *, ended: float = 0.0, message: str = "said by a rank"
) -> RankResult:
    trained = FACTS if exit_code == 0 else None
    return RankResult(rank=rank, exit_code=exit_code, message=message, step=7, ended=ended, trained=trained)


def make_ends(*codes: int, killed_by_us: tuple[int, ...] = ()) -> list[RankEnd]:
    return [RankEnd(rank, code, rank in killed_by_us) for rank, code in enumerate(codes)]


def test_all_ranks_done_is_done() -> None:
    results = [make_result(0, 0), make_result(1, 0)]
    assert conclude(make_ends(0, 0), results, told_to_go=False, oom_killed=False) == FACTS


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        pytest.param((20, 10), UserError, id="what the user must mend before what time heals"),
        pytest.param((1, 14), NonFiniteLoss, id="an understood failure before an unexpected error"),
        pytest.param((22, 20), StorageUnavailable, id="a failure before a preemption"),
        pytest.param((0, 22), Preempted, id="one rank preempted is preempted"),
    ],
)
def test_most_specific_class_wins(codes: tuple[int, ...], expected: type[StageError]) -> None:
    results = [make_result(rank, code) for rank, code in enumerate(codes)]
    with pytest.raises(expected, match="said by a rank") as caught:
        conclude(make_ends(*codes), results, told_to_go=False, oom_killed=False)
    assert caught.value.step == 7
    assert caught.value.rank == codes.index(int(expected.exit_code))


def test_earliest_end_wins_within_a_class() -> None:
    results = [
        make_result(0, 20, ended=5.0, message="second"),
        make_result(1, 20, ended=4.0, message="first"),
    ]
    with pytest.raises(StorageUnavailable, match="first"):
        conclude(make_ends(20, 20), results, told_to_go=False, oom_killed=False)


def test_signal_is_the_cause_and_not_the_lost_connections_it_leaves() -> None:
    ends = make_ends(1, -signal.SIGKILL, -signal.SIGKILL, killed_by_us=(2,))
    with pytest.raises(RankLost, match="Rank 1 was killed by SIGKILL"):
        conclude(ends, [make_result(0, 1, message="connection reset")], told_to_go=False, oom_killed=False)


def test_kernels_memory_kill_says_what_to_raise() -> None:
    with pytest.raises(OutOfMemory, match=r"spec\.resources\.memory"):
        conclude(make_ends(-signal.SIGKILL), [], told_to_go=False, oom_killed=True)


def test_kernels_memory_kill_says_what_was_tried() -> None:
    with pytest.raises(OutOfMemory, match=r"halved 2 time\(s\)") as caught:
        conclude(make_ends(-signal.SIGKILL), [], told_to_go=False, oom_killed=True, halvings=2)
    assert caught.value.rank == 0


def test_rank_that_dies_of_sigterm_while_it_loads_is_preempted() -> None:
    with pytest.raises(Preempted, match="before it could save"):
        conclude(make_ends(-signal.SIGTERM), [], told_to_go=True, oom_killed=False)


def test_an_error_that_ranks_agreed_on_names_the_rank_it_came_from() -> None:
    agreed = make_result(0, 20).model_copy(update={"failed_rank": 3})
    with pytest.raises(StorageUnavailable) as caught:
        conclude(make_ends(20), [agreed], told_to_go=False, oom_killed=False)
    assert caught.value.rank == 3


def test_a_lost_rank_is_named_in_the_termination_message() -> None:
    results = [make_result(2, 1, ended=2.0), make_result(3, 1, ended=1.0, message="it lost another rank")]
    ends = [RankEnd(2, 1, False), RankEnd(3, 1, False)]
    with pytest.raises(RankLost) as caught:
        conclude(ends, results, told_to_go=False, oom_killed=False)
    exit_code, message = failure_of(caught.value)
    assert (exit_code, message.reason, message.rank) == (1, "Unknown", 3)
    assert message.message == "Rank 3: it lost another rank. The log has the details."


def test_the_first_local_rank_speaks_for_a_pod_that_is_not_the_first() -> None:
    results = [make_result(2, 0), make_result(3, 0)]
    ends = [RankEnd(2, 0, False), RankEnd(3, 0, False)]
    assert conclude(ends, results, told_to_go=False, oom_killed=False) == FACTS


def test_a_rank_that_says_nothing_is_named() -> None:
    with pytest.raises(RankLost, match="Rank 1 ended with code 3 and said nothing"):
        conclude(make_ends(0, 3), [make_result(0, 0)], told_to_go=False, oom_killed=False)


def test_a_rank_whose_code_is_known_but_who_could_write_nothing_down_points_at_the_disk() -> None:
    """The log alone has its words."""
    ends = make_ends(int(ExitCode.STORAGE_UNAVAILABLE), -signal.SIGKILL, killed_by_us=(1,))
    with pytest.raises(
        StorageUnavailable, match=r"Rank 0 .* raise spec\.resources\.ephemeralStorage"
    ) as caught:
        conclude(ends, [], told_to_go=False, oom_killed=False)
    assert caught.value.rank == 0


def test_a_rank_that_has_its_say_is_believed_before_one_that_has_not() -> None:
    ends = make_ends(20, 14)
    with pytest.raises(NonFiniteLoss, match="nan"):
        conclude(ends, [make_result(1, 14, message="nan")], told_to_go=False, oom_killed=False)
