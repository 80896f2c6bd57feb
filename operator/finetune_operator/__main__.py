"""The operator's process: settings, logging, certificate, servers, work queue, and kopf's watches until SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import sys
from collections.abc import Awaitable, Callable, Coroutine

import kopf
from aiohttp import web

from finetune_operator import metrics
from finetune_operator.cache import Cache
from finetune_operator.certificate_store import CertificateStore
from finetune_operator.children import Children
from finetune_operator.cluster import Cluster, ClusterError
from finetune_operator.controller import Controller
from finetune_operator.handlers import build_registry
from finetune_operator.health_server import start_health_server
from finetune_operator.intake import Intake
from finetune_operator.kopf_settings import build_kopf_settings
from finetune_operator.logs import configure_logging
from finetune_operator.progress_server import ProgressServer
from finetune_operator.reconciler import Pace
from finetune_operator.settings import Settings, SettingsError, load_settings
from finetune_operator.times import utc_now
from finetune_operator.token_reviews import TokenReviews
from finetune_operator.work_queue import WorkQueue

START_RETRY_SECONDS = 2.0
EXIT_CANNOT_START = 1

logger = logging.getLogger(__name__)


def main() -> int:
    """Run the operator. Returns the exit code."""
    try:
        settings = load_settings(os.environ)
    except SettingsError as error:
        sys.stderr.write(f"finetune-operator cannot start: {error}\n")
        return EXIT_CANNOT_START
    configure_logging(settings.log_format, settings.log_level)
    try:
        asyncio.run(run_operator(settings))
    except ClusterError as error:
        logger.error("finetune-operator cannot start: %s", error)
        return EXIT_CANNOT_START
    return 0


async def run_operator(settings: Settings) -> None:
    """Start everything in the order in which it is needed, and end it in the reverse order."""
    ready, cache = asyncio.Event(), Cache()
    async with contextlib.AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(contextlib.aclosing(await Cluster.connect()))
        certificate = CertificateStore(cluster, settings, utc_now)
        controller = Controller(
            cluster, cache, Children(cluster, settings.pods, certificate), _pace(settings), utc_now
        )
        queue = WorkQueue(controller.reconcile_key)
        intake = Intake(cache, queue.enqueue, utc_now)
        server = ProgressServer(TokenReviews(cluster), cache, intake.report, utc_now)

        await _serve(
            stack, start_health_server(settings.health_port, ready, lambda: _update_gauges(queue, cache))
        )
        await _when_possible("load the certificate", certificate.load)
        await _serve(stack, server.start(settings.progress_port, certificate.tls))
        await _when_possible(
            "list FineTuneJobs", lambda: intake.list_everything(cluster, settings.watch_namespaces)
        )
        async with asyncio.TaskGroup() as tasks:
            # A background task that fails ends the group and so the process; the kubelet starts it anew.
            background = [
                tasks.create_task(queue.run(), name="work queue"),
                tasks.create_task(certificate.keep_current(), name="certificate"),
                tasks.create_task(_resync(intake, cluster, settings), name="resync"),
            ]
            logger.info("watching %s", ", ".join(settings.watch_namespaces) or "all namespaces")
            ready.set()
            # kopf waits at its end for tasks that began after it: let those of ours begin now.
            await asyncio.sleep(0)
            await _watch(cluster, intake, settings)
            for task in background:
                task.cancel()


async def _watch(cluster: Cluster, intake: Intake, settings: Settings) -> None:
    """Let kopf watch until the process is told to end."""
    await kopf.operator(
        registry=build_registry(cluster, intake),
        settings=build_kopf_settings(),
        standalone=True,
        clusterwide=not settings.watch_namespaces,
        namespaces=settings.watch_namespaces,
    )


def _pace(settings: Settings) -> Pace:
    return Pace(settings.progress_interval, settings.first_restart_delay)


def _update_gauges(queue: WorkQueue, cache: Cache) -> None:
    metrics.QUEUE_LENGTH.set(len(queue))
    metrics.LIVE_JOBS.set(len(cache.live_keys()))


async def _serve(stack: contextlib.AsyncExitStack, starting: Coroutine[None, None, web.AppRunner]) -> None:
    runner = await starting
    stack.push_async_callback(runner.cleanup)


async def _when_possible(what: str, action: Callable[[], Awaitable[None]]) -> None:
    """Do something without which there is no work; what is missing may still be on its way."""
    while True:
        try:
            return await action()
        except ClusterError as error:
            logger.warning("cannot %s yet, trying again in %.0f s: %s", what, START_RETRY_SECONDS, error)
        await asyncio.sleep(START_RETRY_SECONDS)


async def _resync(intake: Intake, cluster: Cluster, settings: Settings) -> None:
    """List everything anew, slowly and for ever."""
    while True:
        # Spread, so that operators of one rollout do not list in the same second.
        await asyncio.sleep(settings.resync_interval.total_seconds() * random.uniform(0.9, 1.1))  # noqa: S311
        try:
            await intake.list_everything(cluster, settings.watch_namespaces)
        except ClusterError as error:
            logger.warning("the slow resync was left out this time: %s", error)


if __name__ == "__main__":
    sys.exit(main())
