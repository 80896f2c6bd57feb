"""One request to the API server: the gate before every write, login, tries in place, and errors as what they mean.

Objects travel as plain dicts.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Protocol, cast
from urllib.parse import quote, urlencode

import aiohttp

from finetune_api import names
from finetune_operator import metrics
from finetune_operator.api_errors import Conflict, NotFound, Unavailable, error_of_response
from finetune_operator.kubernetes_objects import JsonObject

REQUEST_TIMEOUT_SECONDS = 30.0
# A page of 500 FineTuneJobs is 4 MB of JSON and 20 MB of dicts.
LIST_CHUNK_SIZE = 100
# What failed quickly is tried again without giving up what was done so far; a longer pause belongs to the work queue.
# Every write can be repeated: names are deterministic, and updates carry the resource version they were made from.
TRIES_IN_PLACE = 3
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_IN_PLACE_SECONDS = 2.0

logger = logging.getLogger(__name__)


class RestClient(Protocol):
    """The kubernetes client's."""

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: JsonObject | None,
        _request_timeout: object,
    ) -> Any:  # noqa: ANN401 (it is not typed)
        """Send a request."""


class WriteGate(Protocol):
    """What every write passes."""

    def check(self) -> None:
        """Return if this process may write now. Raises Unavailable where it may not at the moment."""


class OpenGate:
    """Lets every write pass: for programs that are alone by other means."""

    def check(self) -> None:
        """Let it pass."""


class ApiRequests:
    """Requests to one API server."""

    def __init__(
        self, rest_client: RestClient, host: str, authorization: Callable[[], Awaitable[str | None]]
    ) -> None:
        self._rest_client = rest_client
        self._host = host
        self._authorization = authorization
        self._gate: WriteGate = OpenGate()

    def guard_writes(self, gate: WriteGate) -> None:
        """Let every write pass this gate from now on."""
        self._gate = gate

    async def apply(self, plural: str, manifest: JsonObject) -> None:
        """Create or update an object of the core API by server-side apply."""
        metadata = manifest["metadata"]
        await self.request(
            "PATCH",
            api_path("api/v1", metadata["namespace"], plural, metadata["name"]),
            manifest,
            content_type="application/apply-patch+yaml",
            query={"fieldManager": names.FIELD_MANAGER, "force": "true"},
        )

    async def delete(self, path: str, uid: str, policy: str = "Background") -> None:
        """Delete an object; one that is gone, or is another one by now, is left alone."""
        options = {"propagationPolicy": policy, "preconditions": {"uid": uid}}
        try:
            await self.request("DELETE", path, options)
        except (NotFound, Conflict):
            logger.debug("not deleted, because it is gone or another one by now: %s", path)

    async def list_objects(self, path: str, **query: str) -> AsyncIterator[JsonObject]:
        """List objects, chunk by chunk."""
        token = ""
        while True:
            chunk = {**query, "limit": str(LIST_CHUNK_SIZE), **({"continue": token} if token else {})}
            page = await self.request("GET", path, query=chunk)
            for item in page["items"]:
                yield item
            token = page["metadata"].get("continue", "")
            if not token:
                return

    async def request(
        self,
        method: str,
        path: str,
        body: JsonObject | None = None,
        *,
        content_type: str = "application/json",
        query: Mapping[str, str] | None = None,
    ) -> JsonObject:
        """Send a request, and once or twice more where it failed quickly: any longer way back costs more requests."""
        for number in range(TRIES_IN_PLACE):
            if method != "GET":
                self._gate.check()
            try:
                return await self.send(method, path, body, content_type=content_type, query=query)
            except Unavailable as error:
                pause_seconds = max(error.retry_after_seconds or 0, FIRST_PAUSE_SECONDS * 2**number)
                may_help = error.failed_quickly and pause_seconds <= LONGEST_PAUSE_IN_PLACE_SECONDS
                if number == TRIES_IN_PLACE - 1 or not may_help:
                    raise
            await asyncio.sleep(pause_seconds * random.uniform(1.0, 1.5))  # noqa: S311
        raise AssertionError("the last try returns or raises")

    async def send(
        self,
        method: str,
        path: str,
        body: JsonObject | None = None,
        *,
        content_type: str = "application/json",
        query: Mapping[str, str] | None = None,
        timeout_seconds: float = REQUEST_TIMEOUT_SECONDS,
    ) -> JsonObject:
        """Send a request once, past the gate. Raises ClusterErrors."""
        url = f"{self._host}{path}{f'?{urlencode(query)}' if query else ''}"
        timeout = aiohttp.ClientTimeout(total=timeout_seconds, connect=min(10, timeout_seconds))
        try:
            response = await self._rest_client.request(
                method, url, headers=await self._headers(content_type), body=body, _request_timeout=timeout
            )
            content = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            metrics.request_answered(method, path, None)
            raise Unavailable(
                f"{method} {path}: the API server cannot be reached: {error!r}",
                failed_quickly=_was_cut_off(error),
            ) from error
        metrics.request_answered(method, path, response.status)
        if response.status >= 300:
            raise error_of_response(method, path, response.status, content, response.headers)
        return cast(JsonObject, json.loads(content))

    async def _headers(self, content_type: str) -> dict[str, str]:
        headers = {
            # As kubectl does: /openid/v1/jwks has a media type of its own.
            "Accept": "application/json, */*",
            "Content-Type": content_type,
            "User-Agent": names.OPERATOR_NAME,
        }
        authorization = await self._authorization()
        return {**headers, "Authorization": authorization} if authorization else headers


def api_path(api: str, namespace: str | None, plural: str, name: str | None = None) -> str:
    """The path of an object or, without a name, of a collection; without a namespace, of that of all namespaces."""
    parts = [api, *(("namespaces", namespace) if namespace else ()), plural, *((name,) if name else ())]
    return "".join(f"/{quote(part)}" for part in parts)


def _was_cut_off(error: Exception) -> bool:
    """Whether a connection broke while it was used; one that cannot be made, or is silent, takes longer to heal."""
    return isinstance(error, aiohttp.ClientConnectionError | ConnectionError) and not isinstance(
        error, aiohttp.ClientConnectorError | TimeoutError
    )
