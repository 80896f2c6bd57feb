"""What the probes are told."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest

from finetune_operator.health_server import Health, start_health_server


class Ailment:
    """What is wrong, if anything."""

    text: str | None = None

    def __call__(self) -> str | None:
        return self.text


@pytest.fixture
def ailment() -> Ailment:
    return Ailment()


@pytest.fixture
def health(ailment: Ailment) -> Health:
    return Health(ailment)


@pytest.fixture
async def session(health: Health) -> AsyncIterator[aiohttp.ClientSession]:
    runner = await start_health_server(0, health, lambda: None)
    # Port 0 gives IPv4 and IPv6 one each.
    port = next(address[1] for address in runner.addresses if len(address) == 2)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        yield session
    await runner.cleanup()


async def ask(session: aiohttp.ClientSession, path: str) -> tuple[int, str]:
    async with session.get(path) as answer:
        return answer.status, await answer.text()


async def test_a_process_that_starts_is_alive_and_not_ready(session: aiohttp.ClientSession) -> None:
    assert await ask(session, "/healthz") == (200, "ok\n")
    assert await ask(session, "/readyz") == (503, "starting\n")


async def test_why_it_is_not_ready_is_told(session: aiohttp.ClientSession, health: Health) -> None:
    health.not_ready = lambda: "waiting for Lease system/operator, held by pod-b_123"
    assert await ask(session, "/readyz") == (503, "waiting for Lease system/operator, held by pod-b_123\n")

    health.not_ready = lambda: None
    assert await ask(session, "/readyz") == (200, "ok\n")


async def test_why_it_has_to_be_restarted_is_told_and_logged_once(
    session: aiohttp.ClientSession, ailment: Ailment, caplog: pytest.LogCaptureFixture
) -> None:
    ailment.text = "nothing came through the watch of pods"
    for _ in range(3):
        assert await ask(session, "/healthz") == (503, "nothing came through the watch of pods\n")
    assert caplog.text.count("the liveness probe fails: nothing came through the watch of pods") == 1

    ailment.text = None
    assert await ask(session, "/healthz") == (200, "ok\n")
    ailment.text = "nothing came through the watch of jobs"
    await ask(session, "/healthz")
    assert "watch of jobs" in caplog.text


async def test_metrics_are_served(session: aiohttp.ClientSession) -> None:
    status, text = await ask(session, "/metrics")

    assert status == 200
    assert "finetune_lease_held" in text
