"""Receives progress from the pods: HTTPS, a projected token, and from the token's pod to the job it reports about.

A report changes nothing but figures in the status of the job that the pod belongs to.
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
from pydantic import ValidationError

from finetune_api.progress import MAX_REPORT_BYTES, PROGRESS_PATH, ProgressReport
from finetune_operator import metrics
from finetune_operator.cluster import ClusterError
from finetune_operator.observation import ReceivedReport
from finetune_operator.token_reviews import TokenReviews

# A trainer reports every two seconds and once more at its end.
REPORTS_PER_SECOND = 1.0
BURST = 5.0
MAX_PODS_REMEMBERED = 20_000

logger = logging.getLogger(__name__)


class Pods(Protocol):
    """What knows the pods."""

    def child_of_pod(self, pod_uid: str) -> tuple[str, str] | None:
        """The uids of the child Job and of the FineTuneJob that a pod belongs to."""


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

    async def start(self, port: int, tls: SSLContext) -> web.AppRunner:
        """Listen. The caller cleans the runner up."""
        runner = web.AppRunner(
            self.application(), handle_signals=False, access_log=None, shutdown_timeout=1.0
        )
        await runner.setup()
        await web.TCPSite(runner, port=port, ssl_context=tls).start()
        return runner

    def application(self) -> web.Application:
        """The routes."""
        application = web.Application(client_max_size=MAX_REPORT_BYTES)
        application.router.add_post(PROGRESS_PATH, self._receive)
        return application

    async def _receive(self, request: web.Request) -> web.Response:
        status, message = await self._judge(request)
        metrics.PROGRESS_REPORTS.labels(code=str(status.value)).inc()
        if status is HTTPStatus.NO_CONTENT:
            return web.Response(status=status)
        retry = {"Retry-After": "2"} if status is HTTPStatus.SERVICE_UNAVAILABLE else {}
        return web.json_response({"error": message}, status=status, headers=retry)

    async def _judge(self, request: web.Request) -> tuple[HTTPStatus, str]:
        """Authenticate, limit, read, attribute and deliver; the answer says at which of these it ended."""
        token = _bearer_token(request)
        if token is None:
            return HTTPStatus.UNAUTHORIZED, "a bearer token is required"
        try:
            pod_uid = await self._reviews.identify_pod(token)
        except ClusterError as error:
            logger.warning("a progress token could not be reviewed: %s", error)
            return HTTPStatus.SERVICE_UNAVAILABLE, "the token cannot be reviewed now"
        if pod_uid is None:
            return HTTPStatus.UNAUTHORIZED, "the token is not valid here"
        if not self._rate_limit.allows(pod_uid):
            return HTTPStatus.TOO_MANY_REQUESTS, f"report at most {REPORTS_PER_SECOND:g} times a second"
        try:
            report = ProgressReport.model_validate_json(await request.read())
        except web.HTTPRequestEntityTooLarge:
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a report has at most {MAX_REPORT_BYTES} bytes"
        except ValidationError as error:
            return HTTPStatus.BAD_REQUEST, str(error.errors(include_url=False, include_input=False)[:3])
        family = self._pods.child_of_pod(pod_uid)
        if family is None:
            # Right after a restart the pods are listed first; a stranger's pod hears the same.
            return HTTPStatus.SERVICE_UNAVAILABLE, "no FineTuneJob is known for this pod"
        child_uid, owner_uid = family
        self._deliver(owner_uid, ReceivedReport(child_uid, report, self._clock()))
        return HTTPStatus.NO_CONTENT, ""


def _bearer_token(request: web.Request) -> str | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None
