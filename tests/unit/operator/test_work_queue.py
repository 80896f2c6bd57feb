"""The work queue: one reconcile a job at a time, nothing lost, failures later and later."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from finetune_operator import work_queue
from finetune_operator.job_resource import JobKey
from finetune_operator.work_queue import RetryLater, WorkQueue

A, B = JobKey("ml", "a"), JobKey("ml", "b")


class Work:
    """Records what it is asked to do; each round can be held, or fail."""

    def __init__(self) -> None:
        self.calls: list[JobKey] = []
        self.running: list[JobKey] = []
        self.most_at_once = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.answers: list[float | Exception | None] = []

    async def __call__(self, key: JobKey) -> float | None:
        self.calls.append(key)
        self.running.append(key)
        self.most_at_once = max(self.most_at_once, self.running.count(key))
        await self.gate.wait()
        self.running.remove(key)
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Exception):
            raise answer
        return answer


@asynccontextmanager
async def running(work: Work) -> AsyncIterator[WorkQueue]:
    queue = WorkQueue(work, jitter=lambda: 0.0)
    task = asyncio.create_task(queue.run(workers=4))
    try:
        yield queue
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(probe: Callable[[], bool]) -> None:
    """Wait until something holds, by deadline."""
    async with asyncio.timeout(2):
        while not probe():  # noqa: ASYNC110 (a probe of many things has no event)
            await asyncio.sleep(0.001)


async def test_a_key_is_worked_on_once_however_often_it_is_enqueued_before() -> None:
    work = Work()
    async with running(work) as queue:
        queue.enqueue(A)
        queue.enqueue(A)
        queue.enqueue(B)
        await until(lambda: len(work.calls) == 2 and len(queue) == 0)

    assert sorted(work.calls) == [A, B]


async def test_a_key_enqueued_while_it_is_worked_on_is_worked_on_once_more_and_never_twice_at_once() -> None:
    work = Work()
    work.gate.clear()
    async with running(work) as queue:
        queue.enqueue(A)
        await until(lambda: work.running == [A])
        queue.enqueue(A)
        queue.enqueue(A)
        work.gate.set()
        await until(lambda: len(work.calls) == 2 and len(queue) == 0)

    assert (work.calls, work.most_at_once) == ([A, A], 1)


async def test_jobs_are_worked_on_side_by_side() -> None:
    work = Work()
    work.gate.clear()
    async with running(work) as queue:
        queue.enqueue(A)
        queue.enqueue(B)
        await until(lambda: len(work.running) == 2)


async def test_what_wants_to_be_seen_again_is() -> None:
    work = Work()
    work.answers = [0.01, None]
    async with running(work) as queue:
        queue.enqueue(A)
        await until(lambda: len(work.calls) == 2)


async def test_the_earlier_of_two_wishes_holds() -> None:
    work = Work()
    async with running(work) as queue:
        queue.enqueue_later(A, 30)
        queue.enqueue_later(A, 0.01)
        queue.enqueue_later(A, 30)
        await until(lambda: len(work.calls) == 1)


@pytest.mark.parametrize("error", [RuntimeError("poison"), RetryLater("busy")])
async def test_a_failure_is_tried_again_and_concerns_no_other_job(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_queue, "FIRST_RETRY_SECONDS", 0.01)
    work = Work()
    work.answers = [error, error, None, None]
    async with running(work) as queue:
        queue.enqueue(A)
        await until(lambda: work.calls.count(A) == 3)
        queue.enqueue(B)
        await until(lambda: B in work.calls)


async def test_failures_come_back_later_and_later_up_to_a_minute() -> None:
    queue = WorkQueue(Work(), jitter=lambda: 0.0)

    pauses = [queue._backoff(A) for _ in range(10)]

    assert pauses == [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60]


async def test_who_is_told_when_to_come_again_comes_no_earlier_and_not_with_all_others() -> None:
    work = Work()
    work.answers = [RetryLater("too many requests", delay_seconds=7)]
    queue = WorkQueue(work, jitter=lambda: 0.5)

    assert await queue._attempt(A) == 7 * 1.25


async def test_a_short_pause_that_was_asked_for_does_not_undo_the_backoff() -> None:
    work = Work()
    work.answers = [RetryLater("too many requests", delay_seconds=1) for _ in range(5)]
    queue = WorkQueue(work, jitter=lambda: 0.0)

    assert [await queue._attempt(A) for _ in range(5)] == [1, 1, 2, 4, 8]


async def test_what_failed_comes_back_soon_when_the_reason_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_queue, "FIRST_RETRY_SECONDS", 60.0)
    work = Work()
    work.answers = [RetryLater("the API server is away"), 60.0]
    async with running(work) as queue:
        queue.enqueue(A)
        await until(lambda: work.calls == [A] and len(queue) == 0)
        queue.enqueue(B)
        await until(lambda: work.calls == [A, B] and len(queue) == 0)

        queue.retry_failed()
        await until(lambda: work.calls == [A, B, A])

        # B did not fail: it wants to be seen again in its own time.
        assert len(queue) == 0


async def test_at_the_end_what_runs_is_finished_and_nothing_else_begins() -> None:
    work = Work()
    work.gate.clear()
    async with running(work) as queue:
        for key in (A, B):
            queue.enqueue(key)
        await until(lambda: len(work.running) == 2)
        queue.enqueue(A)
        drained = asyncio.create_task(queue.drain(2))
        await asyncio.sleep(0)
        queue.enqueue(JobKey("ml", "late"))
        work.gate.set()
        await drained

        assert work.running == []
        assert len(queue) == 0
    assert sorted(work.calls) == [A, B]


async def test_what_does_not_end_in_time_does_not_hold_up_the_end(caplog: pytest.LogCaptureFixture) -> None:
    work = Work()
    work.gate.clear()
    async with running(work) as queue:
        queue.enqueue(A)
        await until(lambda: work.running == [A])

        await queue.drain(0.01)

    assert "the reconcile of ml/a did not end" in caplog.text


async def test_a_queue_with_nothing_to_do_is_drained_at_once() -> None:
    async with running(Work()) as queue:
        await queue.drain(60)
