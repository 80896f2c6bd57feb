"""/healthz, /readyz and /metrics over plain HTTP, for the kubelet and Prometheus.

It is served by the event loop on purpose: a loop that is blocked does not answer, and the kubelet sees it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from finetune_operator import metrics

logger = logging.getLogger(__name__)


class Health:
    """What the probes are told. `find_ailment` says in a sentence why this process should be restarted, or nothing."""

    def __init__(self, find_ailment: Callable[[], str | None]) -> None:
        self._find_ailment = find_ailment
        self._told = False
        self.not_ready: Callable[[], str | None] = lambda: "starting"

    def ailment(self) -> str | None:
        """Why this process should be restarted; logged once, because the kubelet shows only the status."""
        ailment = self._find_ailment()
        if ailment and not self._told:
            logger.error("the liveness probe fails: %s", ailment)
        self._told = ailment is not None
        return ailment


async def start_health_server(port: int, health: Health, update_gauges: Callable[[], None]) -> web.AppRunner:
    """Listen. The caller cleans the runner up."""

    async def healthz(_: web.Request) -> web.Response:
        return _answer(health.ailment())

    async def readyz(_: web.Request) -> web.Response:
        return _answer(health.not_ready())

    async def all_metrics(_: web.Request) -> web.Response:
        update_gauges()
        return web.Response(body=await metrics.expose(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    application = web.Application()
    application.add_routes(
        [web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", all_metrics)]
    )
    runner = web.AppRunner(application, handle_signals=False, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, port=port).start()
    return runner


def _answer(complaint: str | None) -> web.Response:
    return web.Response(text=f"{complaint or 'ok'}\n", status=503 if complaint else 200)
