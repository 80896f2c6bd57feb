"""The operator's process: Lease, certificate, servers, listing, work queue, and kopf's watches until SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine

from finetune_operator import metrics
from finetune_operator.cache import Cache
from finetune_operator.certificate_store import CertificateStore
from finetune_operator.children import Children
from finetune_operator.cluster import Cluster, ClusterError
from finetune_operator.controller import Controller
from finetune_operator.handlers import WATCHED, build_registry
from finetune_operator.health_server import Health, start_health_server
from finetune_operator.intake import Intake
from finetune_operator.job_resource import InstallationRules
from finetune_operator.jwt_verifier import JwtVerifier, KeyFile
from finetune_operator.kopf_settings import build_kopf_settings
from finetune_operator.lease import Lease, LeaseTerms, steady_seconds
from finetune_operator.liveness import Deliveries
from finetune_operator.login import Login
from finetune_operator.logs import configure_logging
from finetune_operator.pace import Pace
from finetune_operator.progress_budget import ProgressBudget
from finetune_operator.progress_server import ProgressServer
from finetune_operator.reactor import run_watches
from finetune_operator.settings import Settings, SettingsError, load_settings
from finetune_operator.times import utc_now
from finetune_operator.token_reviews import Reviewer, TokenReviews
from finetune_operator.work_queue import WorkQueue

START_RETRY_SECONDS = 2.0
# Reconciles that run when the process is told to end get this long; the rest of the end takes a second or two.
DRAIN_SECONDS = 4.0
STOP_SECONDS = 2.0
EXIT_FAILED = 1
# Look-ups only explain why a job waits: those of thousands of waiting jobs must not become the API server's load.
LOOK_UPS_PER_SECOND, LOOK_UPS_AT_ONCE = 5.0, 20
# Figures of all jobs together reach the API server at most 20 times a second. Requests take longer at one time than at
# another, so a few more arrive in one second than were sent in it.
PROGRESS_WRITES_PER_SECOND = 18.0

logger = logging.getLogger(__name__)


def main() -> int:
    """Run the operator. Returns the exit code."""
    try:
        settings = load_settings(os.environ)
    except SettingsError as error:
        sys.stderr.write(f"finetune-operator cannot start: {error}\n")
        return EXIT_FAILED
    configure_logging(settings.log_format, settings.log_level)
    try:
        # Not asyncio.run: it waits for every task that is left, and kopf's may wait for a login that never comes.
        asyncio.new_event_loop().run_until_complete(run_operator(settings))
    except ClusterError as error:
        logger.error("finetune-operator cannot start: %s", error)
        return EXIT_FAILED
    except Exception:
        logger.critical("finetune-operator has failed and ends", exc_info=True)
        return EXIT_FAILED
    return 0


async def run_operator(settings: Settings) -> None:
    """Operate until the process is told to end; then finish what runs and give the Lease back."""
    stopping = asyncio.Event()
    _take_signals(stopping)
    async with contextlib.AsyncExitStack() as stack:
        operator = Operator(
            await stack.enter_async_context(contextlib.aclosing(await Cluster.connect())), settings
        )
        health = start_health_server(settings.health_port, operator.health, operator.update_gauges)
        stack.push_async_callback((await health).cleanup)
        operating = asyncio.create_task(operator.operate(stack, stopping), name="operator")
        try:
            await _first_of(operating, stopping.wait())
        finally:
            await operator.end(operating)
        if operating.done() and not operating.cancelled():
            operating.result()


class Operator:
    """All parts, put together, and the order in which they begin and end."""

    def __init__(self, cluster: Cluster, settings: Settings) -> None:
        self._cluster, self._settings = cluster, settings
        self._lease = Lease(
            cluster,
            settings.operator_namespace,
            settings.lease_name,
            LeaseTerms(settings.lease_duration.total_seconds()),
            settings.pod_name,
        )
        cluster.guard_writes(self._lease)
        self._cache = Cache(InstallationRules(settings.default_store, settings.trust_remote_code))
        metrics.count_jobs_with(self._cache.count_by_phase)
        self._certificate = CertificateStore(cluster, settings, utc_now)
        self._queue = WorkQueue(self._build_controller().reconcile_key)
        self._lease.on_contact = self._queue.retry_failed
        self._intake = Intake(self._cache, self._queue.enqueue, utc_now)
        reviews = TokenReviews(_build_reviewer(cluster, settings))
        self._server = ProgressServer(reviews, self._cache, self._intake.report, utc_now)
        self._deliveries = Deliveries(steady_seconds)
        self.health = Health(self._find_ailment)

    def _build_controller(self) -> Controller:
        return Controller(
            self._cluster,
            self._cache,
            Children(self._cluster, self._settings.pods, self._certificate),
            Pace(self._settings.progress_interval, self._settings.first_restart_delay),
            utc_now,
            ProgressBudget(PROGRESS_WRITES_PER_SECOND),
            ProgressBudget(LOOK_UPS_PER_SECOND, LOOK_UPS_AT_ONCE),
        )

    def _live_namespaces(self) -> set[str]:
        return {key.namespace for key in self._cache.live_keys()}

    def _find_ailment(self) -> str | None:
        bound_seconds = self._settings.watch_silence.total_seconds()
        return self._deliveries.describe_silence(bound_seconds, self._lease.answering_since)

    def update_gauges(self) -> None:
        """Count what is only counted when somebody asks."""
        metrics.QUEUE_LENGTH.set(len(self._queue))
        metrics.LIVE_JOBS.set(len(self._cache.live_keys()))

    async def operate(self, stack: contextlib.AsyncExitStack, stopping: asyncio.Event) -> None:
        """Wait for the Lease, then do everything in the order in which it is needed. Never returns."""
        self.health.not_ready = lambda: f"waiting for {self._lease}, held by {self._lease.holder or 'nobody'}"
        await self._lease.acquire()
        metrics.LEASE_HELD.set(1)
        async with asyncio.TaskGroup() as tasks:
            # A background task that fails ends the group and so the process; the kubelet starts it anew.
            tasks.create_task(self._lease.keep(), name="lease")
            self.health.not_ready = lambda: "starting"
            await _when_possible("load the certificate", self._certificate.load)
            server = await self._server.start(self._settings.progress_port, self._certificate.tls)
            stack.push_async_callback(server.cleanup)
            await _when_possible("list FineTuneJobs", self._list_everything)
            tasks.create_task(self._queue.run(), name="work queue")
            tasks.create_task(self._certificate.keep_current(self._live_namespaces), name="certificate")
            tasks.create_task(self._resync(), name="resync")
            logger.info("watching %s", ", ".join(self._settings.watch_namespaces) or "all namespaces")
            self._deliveries.expect(WATCHED, self._settings.watch_namespaces)
            self.health.not_ready = self._deliveries.describe_unopened
            await self._watch(stopping)

    async def _watch(self, stopping: asyncio.Event) -> None:
        login = Login(self._cluster.connection, self._deliveries)
        await run_watches(
            build_registry(login.session, self._intake),
            build_kopf_settings(self._settings.watch_inactivity.total_seconds()),
            self._settings.watch_namespaces,
            take_signals_back=lambda: _take_signals(stopping),
        )
        raise RuntimeError("kopf has ended by itself; without its watches the operator is blind")

    async def end(self, operating: asyncio.Task[None]) -> None:
        """Finish what runs, stop the rest, give the Lease back."""
        logger.info("ending; what runs is finished first")
        self.health.not_ready = lambda: "stopping"
        if not operating.done():
            await self._queue.drain(DRAIN_SECONDS)
            operating.cancel()
            await asyncio.wait([operating], timeout=STOP_SECONDS)
        await self._lease.release()
        metrics.LEASE_HELD.set(0)

    async def _list_everything(self) -> None:
        await self._intake.list_everything(self._cluster, self._settings.watch_namespaces)

    async def _resync(self) -> None:
        """List everything anew, slowly and for ever."""
        while True:
            # Spread, so that operators of one rollout do not list in the same second.
            pause_seconds = self._settings.resync_interval.total_seconds()
            await asyncio.sleep(pause_seconds * random.uniform(0.9, 1.1))  # noqa: S311
            try:
                await self._list_everything()
            except ClusterError as error:
                logger.warning("the slow resync was left out this time: %s", error)


def _build_reviewer(cluster: Cluster, settings: Settings) -> Reviewer:
    """What knows whose a token is: the API server, or the keys by which it signs."""
    if settings.progress_auth == "TokenReview":
        return cluster
    if settings.progress_keys_path and settings.progress_issuer:
        return JwtVerifier(KeyFile(settings.progress_keys_path, settings.progress_issuer))
    return JwtVerifier(cluster)


def _take_signals(stopping: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)


async def _first_of(task: asyncio.Task[None], other: Coroutine[None, None, object]) -> None:
    """Wait until one of them is done; the task goes on, the other one does not."""
    waiting = asyncio.create_task(other)
    try:
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()


async def _when_possible(what: str, action: Callable[[], Awaitable[None]]) -> None:
    """Do something without which there is no work; what is missing may still be on its way."""
    while True:
        try:
            return await action()
        except ClusterError as error:
            logger.warning("cannot %s yet, trying again in %.0f s: %s", what, START_RETRY_SECONDS, error)
        await asyncio.sleep(START_RETRY_SECONDS)


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    # What had to be ended has been ended; nothing else is waited for.
    os._exit(code)
