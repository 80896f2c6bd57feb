"""Decides how an attempt of training ended, from what became of its ranks. Pure."""

from __future__ import annotations

import signal
from collections.abc import Sequence

from finetune_api.reasons import FAILURE_CLASS_OF_EXIT_CODE
from finetune_api.termination import TrainedFacts
from finetune_trainer.disk_errors import DISK_REMEDY
from finetune_trainer.errors import (
    DataError,
    NonFiniteLoss,
    OutOfMemory,
    Preempted,
    RankLost,
    StageError,
    Stalled,
    StorageDenied,
    StorageUnavailable,
    UserError,
)
from finetune_trainer.rank_processes import RankEnd
from finetune_trainer.work_directory import RankResult

_ERRORS: dict[int, type[StageError]] = {
    int(kind.exit_code): kind
    for kind in (
        UserError,
        DataError,
        OutOfMemory,
        StorageDenied,
        NonFiniteLoss,
        StorageUnavailable,
        Stalled,
        Preempted,
    )
}


def conclude(
    ends: Sequence[RankEnd],
    results: Sequence[RankResult],
    *,
    told_to_go: bool,
    oom_killed: bool,
    halvings: int = 0,
) -> TrainedFacts:
    """Return what the ranks of this pod achieved. Raises the root cause: the most specific class, then the earliest.

    `halvings`: how often the micro-batch was halved because earlier attempts ran out of memory.
    """
    if all(end.code == 0 for end in ends):
        facts = [result.trained for result in results]
        assert facts and facts[0] is not None, "a rank that ends with 0 has left its result"
        return facts[0]
    understood = [result for result in results if result.exit_code in FAILURE_CLASS_OF_EXIT_CODE]
    if understood:
        raise _as_error(min(understood, key=lambda result: (result.exit_code, result.ended)))
    heard = {result.rank for result in results}
    wordless = [end for end in ends if end.code in _ERRORS and end.rank not in heard]
    if wordless:
        raise _without_words(min(wordless, key=lambda end: end.code))
    if oom_killed:
        raise _killed_by_the_kernel(ends, halvings)
    if told_to_go:
        raise Preempted(
            "The pod was told to go and ended before it could save. The next attempt goes on from the newest "
            "checkpoint."
        )
    raise _lost(ends, results)


def _as_error(result: RankResult) -> StageError:
    rank = result.rank if result.failed_rank is None else result.failed_rank
    return _ERRORS[result.exit_code](result.message, step=result.step, rank=rank)


def _without_words(end: RankEnd) -> StageError:
    return _ERRORS[end.code](
        f"Rank {end.rank} ended with code {end.code} and could not write down why; the log has it. {DISK_REMEDY}",
        rank=end.rank,
    )


def _killed_by_the_kernel(ends: Sequence[RankEnd], halvings: int) -> OutOfMemory:
    tried = f", although its micro-batches were halved {halvings} time(s)" if halvings else ""
    return OutOfMemory(
        f"The kernel killed a training process because the pod's memory was used up{tried}. Raise "
        "spec.resources.memory, or lower spec.training.microBatchTokens.",
        rank=_killed_rank(ends),
    )


def _lost(ends: Sequence[RankEnd], results: Sequence[RankResult]) -> RankLost:
    # A rank that died of a signal pulled the others down, whose complaints about lost connections say nothing.
    if (killed := _killed_rank(ends)) is not None:
        (code,) = (end.code for end in ends if end.rank == killed)
        return RankLost(f"Rank {killed} was killed by {signal.Signals(-code).name}.", killed)
    failed = [result for result in results if result.exit_code != 0]
    if failed:
        first = min(failed, key=lambda result: result.ended)
        return RankLost(f"Rank {first.rank}: {first.message}.", first.rank)
    silent = next(end for end in ends if end.code != 0)
    return RankLost(f"Rank {silent.rank} ended with code {silent.code} and said nothing.", silent.rank)


def _killed_rank(ends: Sequence[RankEnd]) -> int | None:
    return next((end.rank for end in ends if end.code < 0 and not end.was_ended_by_us), None)
