"""Receives progress from the pods: HTTPS, a projected token, and from the token's pod to the job it reports about.

A report changes nothing but figures in the status of the job that the pod belongs to. Its shape is ours or that of
transformers' KubeflowCallback; of a gang only the pod of rank 0 is listened to.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import datetime
from http import HTTPStatus
from ssl import SSLContext
from typing import Protocol

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from pydantic import ValidationError

from finetune_api.progress import MAX_REPORT_BYTES, PROGRESS_PATH, ProgressReport
from finetune_operator import metrics
from finetune_operator.cluster import ClusterError
from finetune_operator.connection_guard import GuardedSite
from finetune_operator.json_web_tokens import parse_token
from finetune_operator.observation import ReceivedReport, Reporter
from finetune_operator.plain_metrics import PlainMetrics
from finetune_operator.token_reviews import PodIdentity, TokenReviews

# A trainer reports every few seconds and once more at its end.
REPORTS_PER_SECOND = 1.0
BURST = 5.0
MAX_PODS_REMEMBERED = 20_000
# A report is one short request; clients give up after five seconds.
MAX_CONNECTIONS = 1_000
MAX_CONNECTION_SECONDS = 10.0
MAX_HEADERS = 32

logger = logging.getLogger(__name__)
_http_logger = logging.getLogger(f"{__name__}.http")


def _is_no_fault_of_a_client(record: logging.LogRecord) -> bool:
    """Whether a record of aiohttp's is worth a line: anybody may send garbage, as often as they like."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


_http_logger.addFilter(_is_no_fault_of_a_client)


class Pods(Protocol):
    """What knows the pods."""

    def reporter(self, pod_uid: str) -> Reporter | None:
        """The pod of this uid with the child Job and the FineTuneJob that it belongs to; None for strangers."""


class RateLimit:
    """A token bucket for each pod."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._buckets: dict[str, tuple[float, float]] = {}

    def allows(self, pod_uid: str) -> bool:
        """Whether this pod may report now."""
        now = self._monotonic()
        left, at = self._buckets.pop(pod_uid, (BURST, now))
        left = min(BURST, left + (now - at) * REPORTS_PER_SECOND)
        allowed = left >= 1
        self._buckets[pod_uid] = (left - 1 if allowed else left, now)
        if len(self._buckets) > MAX_PODS_REMEMBERED:
            del self._buckets[next(iter(self._buckets))]
        return allowed


class ProgressServer:
    """The HTTPS server. `deliver` takes a report and the uid of the FineTuneJob it is about."""

    def __init__(
        self,
        reviews: TokenReviews,
        pods: Pods,
        deliver: Callable[[str, ReceivedReport], None],
        clock: Callable[[], datetime],
        rate_limit: RateLimit | None = None,
    ) -> None:
        self._reviews = reviews
        self._pods = pods
        self._deliver = deliver
        self._clock = clock
        self._rate_limit = rate_limit or RateLimit()
        self._plain_metrics = PlainMetrics()

    async def start(
        self,
        port: int,
        tls: SSLContext,
        *,
        max_connections: int = MAX_CONNECTIONS,
        max_connection_seconds: float = MAX_CONNECTION_SECONDS,
    ) -> web.AppRunner:
        """Listen. The caller cleans the runner up."""
        runner = web.AppRunner(
            self.application(),
            handle_signals=False,
            access_log=None,
            logger=_http_logger,
            shutdown_timeout=1.0,
            keepalive_timeout=max_connection_seconds,
            lingering_time=2.0,
            max_headers=MAX_HEADERS,
            # A small body that unpacks to a large one is nothing a trainer sends.
            auto_decompress=False,
        )
        await runner.setup()
        await GuardedSite(
            runner,
            port,
            tls,
            max_connections=max_connections,
            max_connection_seconds=max_connection_seconds,
        ).start()
        return runner

    def application(self) -> web.Application:
        """The routes."""
        application = web.Application(client_max_size=MAX_REPORT_BYTES)
        application.router.add_post(PROGRESS_PATH, self._receive)
        return application

    async def _receive(self, request: web.Request) -> web.Response:
        status, message = await self._judge(request)
        metrics.PROGRESS_REPORTS.labels(code=str(status.value)).inc()
        retry = {"Retry-After": "2"} if status is HTTPStatus.SERVICE_UNAVAILABLE else {}
        # KubeflowCallback takes nothing but 200 for success.
        response = web.json_response({"message": message}, status=status, headers=retry)
        response.force_close()
        return response

    async def _judge(self, request: web.Request) -> tuple[HTTPStatus, str]:
        """Authenticate, limit, read and deliver; the answer says at which of these it ended."""
        try:
            reporter, status, message = await self._authenticate(_bearer_token(request))
        except ClusterError as error:
            logger.warning("a progress token could not be reviewed: %s", error)
            return HTTPStatus.SERVICE_UNAVAILABLE, "the token cannot be reviewed now"
        if reporter is None:
            return status, message
        if not self._rate_limit.allows(reporter.pod.uid):
            return HTTPStatus.TOO_MANY_REQUESTS, f"report at most {REPORTS_PER_SECOND:g} times a second"
        try:
            report = ProgressReport.model_validate_json(await request.read())
        except web.HTTPRequestEntityTooLarge:
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a report has at most {MAX_REPORT_BYTES} bytes"
        except ValidationError as error:
            return HTTPStatus.BAD_REQUEST, str(error.errors(include_url=False, include_input=False)[:3])
        if reporter.pod.rank != 0:
            return HTTPStatus.OK, "only what the pod of rank 0 reports is shown"
        report = self._plain_metrics.complete(reporter.pod.uid, report)
        self._deliver(reporter.owner_uid, ReceivedReport(reporter.job_uid, report, self._clock()))
        return HTTPStatus.OK, "accepted"

    async def _authenticate(self, token: str | None) -> tuple[Reporter | None, HTTPStatus, str]:
        """Find who sent a token: the pod it names must be one of ours before anybody is asked about it."""
        parsed = parse_token(token) if token else None
        if token is None or parsed is None:
            return None, HTTPStatus.UNAUTHORIZED, "a bearer token that is bound to a pod is required"
        reporter = self._pods.reporter(parsed.claims.pod_uid)
        if reporter is None:
            # Right after a restart the pods are listed first; a stranger's pod hears the same.
            return None, HTTPStatus.SERVICE_UNAVAILABLE, "no FineTuneJob is known for this pod"
        identity = await self._reviews.identify_pod(token)
        if identity is None or not _is(reporter, identity):
            return None, HTTPStatus.UNAUTHORIZED, "the token is not valid here"
        return reporter, HTTPStatus.OK, ""


def _is(reporter: Reporter, identity: PodIdentity) -> bool:
    """Whether the pod that the token was issued to is this one: name and namespace must fit as well."""
    pod = reporter.pod
    return (pod.namespace, pod.name, pod.uid) == (identity.namespace, identity.name, identity.uid)


def _bearer_token(request: web.Request) -> str | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None
