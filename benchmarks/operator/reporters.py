"""Train pods' reports of progress: over HTTPS, with tokens bound to the pods, each a connection of its own."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import aiohttp

from benchmarks.operator.api import Api, gather_limited, path_of
from benchmarks.operator.kubelet import TOTAL_STEPS
from finetune_api.names import PROGRESS_CA_PATH, PROGRESS_TOKEN_AUDIENCE
from finetune_api.progress import PROGRESS_PATH

JsonObject = dict[str, Any]
# As often as the trainer reports.
INTERVAL_SECONDS = 5.0
CA_CONFIG_MAP = "finetune-operator-ca"
TOKENS_AT_ONCE = 16


class Reporters:
    """Reports for many pods until the end of the context."""

    def __init__(self, api: Api, namespace: str, url: str) -> None:
        self._api = api
        self._namespace = namespace
        self._url = url + PROGRESS_PATH
        self._tasks: list[asyncio.Task[None]] = []
        self.refused = 0

    async def __aenter__(self) -> Self:
        """Trust the operator's certificate as pods do."""
        bundle = await self._api.read("configmaps", self._namespace, CA_CONFIG_MAP)
        tls = ssl.create_default_context(cadata=bundle["data"][PROGRESS_CA_PATH.rpartition("/")[2]])
        connector = aiohttp.TCPConnector(ssl=tls, limit=0, force_close=True)
        self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=10))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop reporting."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()

    async def start(self, pods: Sequence[JsonObject]) -> None:
        """Begin to report for these pods, spread over the interval."""
        tokens = await gather_limited((self._make_token(pod) for pod in pods), TOKENS_AT_ONCE)
        self._tasks = [asyncio.create_task(self._report_for_ever(token)) for token in tokens]

    async def _make_token(self, pod: JsonObject) -> str:
        """The token that the kubelet would project into the pod."""
        metadata = pod["metadata"]
        bound = {"kind": "Pod", "apiVersion": "v1", "name": metadata["name"], "uid": metadata["uid"]}
        path = f"{path_of('serviceaccounts', self._namespace, 'default')}/token"
        spec = {"audiences": [PROGRESS_TOKEN_AUDIENCE], "boundObjectRef": bound, "expirationSeconds": 3600}
        answer = await self._api.send("POST", path, {"spec": spec})
        token: str = answer["status"]["token"]
        return token

    async def _report_for_ever(self, token: str) -> None:
        await asyncio.sleep(random.uniform(0, INTERVAL_SECONDS))
        step = 0
        while True:
            step = min(step + 1, TOTAL_STEPS - 1)
            await self._report(token, step)
            await asyncio.sleep(INTERVAL_SECONDS)

    async def _report(self, token: str, step: int) -> None:
        report = {
            "trainerStatus": {"estimatedRemainingSeconds": 200},
            "finetune": {
                "step": step,
                "totalSteps": TOTAL_STEPS,
                "epoch": step / TOTAL_STEPS,
                "loss": 2.0 - step / TOTAL_STEPS,
                "learningRate": 2e-4,
                "tokensPerSecond": 5100.0,
            },
        }
        headers = {"Authorization": f"Bearer {token}"}
        try:
            async with self._session.post(self._url, json=report, headers=headers) as response:
                self.refused += response.status >= 300
        except (aiohttp.ClientError, TimeoutError):
            self.refused += 1
