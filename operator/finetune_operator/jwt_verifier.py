"""Who a token was issued to, without asking the API server: its signature is checked against the cluster's keys.

For operators that may only act in single namespaces: TokenReview has no namespaced form, while the keys are readable
by every service account (ClusterRoleBinding system:service-account-issuer-discovery). What the API server would know
and a signature does not say, that the pod still exists, the caller's cache of pods must say.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from finetune_operator.cluster import ClusterError, TokenVerdict, Unavailable
from finetune_operator.json_web_tokens import PodClaims, PodToken, parse_token
from finetune_operator.kubernetes_objects import JsonObject
from finetune_operator.signing_keys import SigningKey, parse_key_set

# A key that the cluster has withdrawn is believed no longer than this while the API server answers.
REFRESH_SECONDS = 600.0
# A token with an unknown key may be the first after a rotation; a flood of them must not become requests.
MIN_REFRESH_SECONDS = 10.0
# Clocks of machines differ; a token that was issued just now must not be refused for that.
CLOCK_SKEW_SECONDS = 60.0
_REFUSED = TokenVerdict(authenticated=False)

logger = logging.getLogger(__name__)


class KeySource(Protocol):
    """Where the cluster's keys are published."""

    async def read_issuer(self) -> JsonObject:
        """Read the OpenID discovery document."""

    async def read_signing_keys(self) -> JsonObject:
        """Read the JSON Web Key Set."""


class KeyFile:
    """Keys from a mounted file, read anew at each refresh: for clusters that do not let service accounts read them."""

    def __init__(self, path: str, issuer: str) -> None:
        self._path = Path(path)
        self._issuer = issuer

    async def read_issuer(self) -> JsonObject:
        """Say what the settings say."""
        return {"issuer": self._issuer}

    async def read_signing_keys(self) -> JsonObject:
        """Read the file. Raises Unavailable."""
        try:
            content: JsonObject = json.loads(await asyncio.to_thread(self._path.read_text, encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise Unavailable(
                f"FINETUNE_PROGRESS_KEYS_PATH={str(self._path)!r} cannot be read: {error}. "
                "Mount a file with the cluster's JSON Web Key Set there."
            ) from error
        return content


@dataclass(frozen=True)
class _Known:
    """The keys as they were last read."""

    issuer: str = ""
    keys: Mapping[str, SigningKey] = field(default_factory=dict)
    read_at: float = float("-inf")


class JwtVerifier:
    """Reviews tokens like the API server does, by the keys that it publishes."""

    def __init__(
        self,
        source: KeySource,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._source = source
        self._monotonic = monotonic
        self._wall_clock = wall_clock
        self._known = _Known()
        self._tried_at = float("-inf")
        self._refreshing = asyncio.Lock()

    async def review_token(self, token: str, audience: str) -> TokenVerdict:
        """Say whether a token is valid for an audience, and whose it is. Raises Unavailable without any keys."""
        parsed = parse_token(token)
        if parsed is None:
            return _REFUSED
        known = await self._current_keys(parsed.key_id)
        key = known.keys.get(parsed.key_id)
        if key is None or not _is_genuine(parsed, key):
            return _REFUSED
        return self._judge(parsed.claims, known.issuer, audience)

    def _judge(self, claims: PodClaims, issuer: str, audience: str) -> TokenVerdict:
        now = self._wall_clock()
        is_current = claims.not_before <= now + CLOCK_SKEW_SECONDS and now < claims.expires
        is_of_pods = claims.subject.startswith(f"system:serviceaccount:{claims.namespace}:")
        if not is_current or not is_of_pods or claims.issuer != issuer or audience not in claims.audiences:
            return _REFUSED
        return TokenVerdict(
            authenticated=True, username=claims.subject, pod_name=claims.pod_name, pod_uid=claims.pod_uid
        )

    async def _current_keys(self, key_id: str) -> _Known:
        """The keys, read anew when they are old or do not hold this one, but never in quick succession."""
        async with self._refreshing:
            now = self._monotonic()
            is_old = now >= self._known.read_at + REFRESH_SECONDS or key_id not in self._known.keys
            if is_old and now >= self._tried_at + MIN_REFRESH_SECONDS:
                self._tried_at = now
                await self._refresh(now)
            if not self._known.keys:
                raise Unavailable("the cluster's signing keys are not known yet", retry_after_seconds=2)
            return self._known

    async def _refresh(self, now: float) -> None:
        try:
            issuer, body = await self._source.read_issuer(), await self._source.read_signing_keys()
            self._known = _Known(str(issuer["issuer"]), parse_key_set(body), now)
        except (ClusterError, KeyError, TypeError, ValueError) as error:
            logger.warning(
                "the cluster's signing keys cannot be read; %s: %s. Let the operator's service account GET "
                "/openid/v1/jwks and /.well-known/openid-configuration, or set FINETUNE_PROGRESS_KEYS_PATH.",
                f"the {len(self._known.keys)} known ones are used on"
                if self._known.keys
                else "no report is accepted",
                error,
            )


def _is_genuine(token: PodToken, key: SigningKey) -> bool:
    return token.algorithm == key.algorithm and key.has_signed(token.signed, token.signature)
