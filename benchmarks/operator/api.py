"""The apiserver for the benchmark itself: an administrator's requests and watches, many at a time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

import aiohttp

from benchmarks.operator.errors import BenchmarkError
from devcluster import ControlPlane
from devcluster.http_client import client_tls
from finetune_api import API_VERSION, PLURAL

JsonObject = dict[str, Any]
T = TypeVar("T")
# Where each plural is served.
API_OF = {
    PLURAL: f"apis/{API_VERSION}",
    "jobs": "apis/batch/v1",
    "configmaps": "api/v1",
    "pods": "api/v1",
    "serviceaccounts": "api/v1",
}
JSON, MERGE_PATCH = "application/json", "application/merge-patch+json"
STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"
SERVER_SIDE_APPLY = "application/apply-patch+yaml"
TIMEOUT = aiohttp.ClientTimeout(total=60)
WATCH_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10)
# A line of a watch is a whole object.
WATCH_BUFFER_BYTES = 4 * 1024**2
_FROM_THE_BEGINNING = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan"


class ApiError(BenchmarkError):
    """The apiserver refused."""

    def __init__(self, method: str, path: str, status: int, text: str) -> None:
        super().__init__(f"{method} {path}: {status} {text[:500]}")
        self.status = status


class Api:
    """Requests as administrator."""

    def __init__(self, server: str, session: aiohttp.ClientSession) -> None:
        self._server = server
        self._session = session

    async def send(self, method: str, path: str, body: object = None, content_type: str = JSON) -> JsonObject:
        """Send one request. Raises ApiError."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": content_type}
        async with self._session.request(
            method, f"{self._server}/{path}", data=data, headers=headers, timeout=TIMEOUT
        ) as response:
            content = await response.read()
            if response.status >= 300:
                raise ApiError(method, path, response.status, content.decode(errors="replace"))
            return cast(JsonObject, json.loads(content))

    async def create(self, plural: str, manifest: JsonObject) -> JsonObject:
        """Create an object."""
        return await self.send("POST", path_of(plural, manifest["metadata"]["namespace"]), manifest)

    async def read(self, plural: str, namespace: str, name: str) -> JsonObject:
        """Read an object."""
        return await self.send("GET", path_of(plural, namespace, name))

    async def list_objects(self, plural: str, namespace: str) -> list[JsonObject]:
        """List the objects of a namespace."""
        return cast(list[JsonObject], (await self.send("GET", path_of(plural, namespace)))["items"])

    async def delete(self, plural: str, namespace: str, name: str) -> None:
        """Delete an object as kubectl does: its children follow in the background."""
        await self.send("DELETE", path_of(plural, namespace, name), {"propagationPolicy": "Background"})

    async def create_namespace(self, name: str) -> None:
        """Create a namespace and wait for the ServiceAccount that pods need."""
        await self.send("POST", "api/v1/namespaces", {"metadata": {"name": name}})
        async with asyncio.timeout(30):
            while not await self._exists("serviceaccounts", name, "default"):  # noqa: ASYNC110 (the apiserver is asked)
                await asyncio.sleep(0.02)

    async def watch(self, plural: str, resource_version: str) -> AsyncIterator[tuple[str, JsonObject]]:
        """Yield every change since a version until the apiserver ends the watch; from "" what is there comes first."""
        since = f"resourceVersion={resource_version}" if resource_version else _FROM_THE_BEGINNING
        url = f"{self._server}/{API_OF[plural]}/{plural}?watch=true&allowWatchBookmarks=true&{since}"
        async with self._session.get(url, timeout=WATCH_TIMEOUT, read_bufsize=WATCH_BUFFER_BYTES) as response:
            if response.status != 200:
                raise ApiError("WATCH", plural, response.status, await response.text())
            async for line in response.content:
                event = json.loads(line)
                yield event["type"], event["object"]

    async def _exists(self, plural: str, namespace: str, name: str) -> bool:
        try:
            await self.read(plural, namespace, name)
        except ApiError as error:
            if error.status != 404:
                raise
            return False
        return True


@asynccontextmanager
async def connect(plane: ControlPlane) -> AsyncIterator[Api]:
    """Log in as administrator."""
    credentials = plane.credentials
    tls = client_tls(credentials.authority.certificate, credentials.administrator)
    connector = aiohttp.TCPConnector(ssl=tls, limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield Api(plane.endpoints.apiserver, session)


def path_of(plural: str, namespace: str, name: str = "") -> str:
    """Path of a collection, or of an object in it."""
    return f"{API_OF[plural]}/namespaces/{namespace}/{plural}{f'/{name}' if name else ''}"


async def gather_limited(actions: Iterable[Coroutine[Any, Any, T]], at_once: int) -> list[T]:
    """Await coroutines, so many at a time; the first error ends all."""
    gate = asyncio.Semaphore(at_once)

    async def run(action: Coroutine[Any, Any, T]) -> T:
        async with gate:
            return await action

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(run(action)) for action in actions]
    return [task.result() for task in tasks]
