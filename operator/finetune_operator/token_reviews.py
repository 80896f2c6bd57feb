"""Who sent a report: the token is reviewed once by the API server, and the verdict is kept until the token expires.

Identity is the pod's uid that the API server vouches for; nothing a pod can write about itself counts.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from finetune_api.names import PROGRESS_TOKEN_AUDIENCE
from finetune_operator.cluster import TokenVerdict, Unavailable

MAX_VERDICTS = 10_000
# A deleted pod's token is refused by the API server at once; we notice after this long at the latest.
LONGEST_TRUST_SECONDS = 600.0
DISTRUST_SECONDS = 30.0
# Tokens that were never seen cost a request to the API server each; a flood of them must not become its flood.
MAX_REVIEWS_PER_SECOND = 50.0


class Reviewer(Protocol):
    """What asks the API server."""

    async def review_token(self, token: str, audience: str) -> TokenVerdict:
        """Ask whether a token is valid for an audience, and whose it is."""


@dataclass(frozen=True)
class _Kept:
    pod_uid: str | None
    until: float


class TokenReviews:
    """Verdicts about tokens, at most MAX_VERDICTS of them."""

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

    async def identify_pod(self, token: str) -> str | None:
        """The uid of the pod a token was issued to, or None. Raises Unavailable where the API server cannot say."""
        # Kept by digest, so that a dump of this process holds no tokens.
        digest, now = hashlib.sha256(token.encode()).digest(), self._monotonic()
        kept = self._kept.get(digest)
        if kept is None or now >= kept.until:
            kept = await self._review(token, now)
            self._kept[digest] = kept
            if len(self._kept) > MAX_VERDICTS:
                self._kept.popitem(last=False)
        return kept.pod_uid

    async def _review(self, token: str, now: float) -> _Kept:
        self._take_from_budget(now)
        verdict = await self._reviewer.review_token(token, PROGRESS_TOKEN_AUDIENCE)
        if not verdict.authenticated or not verdict.pod_uid:
            return _Kept(None, now + DISTRUST_SECONDS)
        trust_seconds = min(self._seconds_left(token), LONGEST_TRUST_SECONDS)
        return _Kept(verdict.pod_uid, now + trust_seconds)

    def _take_from_budget(self, now: float) -> None:
        gained = (now - self._budget_at) * MAX_REVIEWS_PER_SECOND
        self._budget, self._budget_at = min(MAX_REVIEWS_PER_SECOND, self._budget + gained), now
        if self._budget < 1:
            raise Unavailable("too many unknown tokens at once", retry_after_seconds=1)
        self._budget -= 1

    def _seconds_left(self, token: str) -> float:
        """Seconds until a token, found valid by the API server, expires; its `exp` can be believed by now."""
        try:
            payload = token.split(".")[1]
            claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
            return max(0.0, float(claims["exp"]) - self._wall_clock())
        except (IndexError, KeyError, TypeError, ValueError, binascii.Error):
            return 0.0
