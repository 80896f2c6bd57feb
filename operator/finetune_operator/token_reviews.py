"""Who sent a report: a token is reviewed once, and the verdict is kept until the token expires.

Identity is the pod that the token was issued to, as the API server (or its signature) vouches for; nothing a pod can
write about itself counts. A verdict alone opens nothing: the pod must still be known when a report comes.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from finetune_api.names import PROGRESS_TOKEN_AUDIENCE
from finetune_operator.cluster import TokenVerdict, Unavailable
from finetune_operator.json_web_tokens import parse_token

MAX_VERDICTS = 10_000
DISTRUST_SECONDS = 30.0
# Tokens that were never seen cost a request to the API server each; a flood of them must not become its flood.
MAX_REVIEWS_PER_SECOND = 50.0
_SERVICE_ACCOUNT = "system:serviceaccount:"


class Reviewer(Protocol):
    """What knows whose a token is: the API server, or JwtVerifier."""

    async def review_token(self, token: str, audience: str) -> TokenVerdict:
        """Say whether a token is valid for an audience, and whose it is."""


@dataclass(frozen=True, slots=True)
class PodIdentity:
    """The pod that a token was issued to."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class _Kept:
    pod: PodIdentity | None
    until: float


class TokenReviews:
    """Verdicts about tokens, at most MAX_VERDICTS of them, those used longest ago dropped first."""

    def __init__(
        self,
        reviewer: Reviewer,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._reviewer = reviewer
        self._monotonic = monotonic
        self._wall_clock = wall_clock
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._budget = MAX_REVIEWS_PER_SECOND
        self._budget_at = monotonic()

    async def identify_pod(self, token: str) -> PodIdentity | None:
        """The pod that a token was issued to, or None. Raises Unavailable where nobody can say now."""
        # Kept by digest, so that a dump of this process holds no tokens.
        digest, now = hashlib.sha256(token.encode()).digest(), self._monotonic()
        kept = self._kept.get(digest)
        if kept is None or now >= kept.until:
            kept = await self._review(token, now)
            self._kept[digest] = kept
        self._kept.move_to_end(digest)
        if len(self._kept) > MAX_VERDICTS:
            self._kept.popitem(last=False)
        return kept.pod

    async def _review(self, token: str, now: float) -> _Kept:
        seconds_left = self._seconds_left(token)
        if seconds_left <= 0:
            return _Kept(None, now + DISTRUST_SECONDS)
        self._take_from_budget(now)
        verdict = await self._reviewer.review_token(token, PROGRESS_TOKEN_AUDIENCE)
        pod = _pod_of(verdict)
        # Its `exp` can be believed once the token was found valid.
        return _Kept(pod, now + (seconds_left if pod else DISTRUST_SECONDS))

    def _take_from_budget(self, now: float) -> None:
        gained = (now - self._budget_at) * MAX_REVIEWS_PER_SECOND
        self._budget, self._budget_at = min(MAX_REVIEWS_PER_SECOND, self._budget + gained), now
        if self._budget < 1:
            raise Unavailable("too many unknown tokens at once", retry_after_seconds=1)
        self._budget -= 1

    def _seconds_left(self, token: str) -> float:
        """Seconds until a token expires; 0 for what can be no token of a pod for us, so that nobody is asked."""
        parsed = parse_token(token)
        if parsed is None or PROGRESS_TOKEN_AUDIENCE not in parsed.claims.audiences:
            return 0.0
        return max(0.0, parsed.claims.expires - self._wall_clock())


def _pod_of(verdict: TokenVerdict) -> PodIdentity | None:
    if not (verdict.authenticated and verdict.pod_uid and verdict.username.startswith(_SERVICE_ACCOUNT)):
        return None
    namespace = verdict.username.removeprefix(_SERVICE_ACCOUNT).partition(":")[0]
    return PodIdentity(namespace, verdict.pod_name, verdict.pod_uid)
