"""The operator and its rival, each a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from benchmarks.machine import cpu_seconds, peak_memory_mib
from benchmarks.operator.errors import BenchmarkError

POLL_SECONDS = 0.01
READY_TIMEOUT_SECONDS = 90.0
STOP_TIMEOUT_SECONDS = 30.0


class Running:
    """A process that was started."""

    def __init__(self, process: subprocess.Popen[bytes], started_at: float, log: Path) -> None:
        self._process = process
        self.started_at = started_at
        self._log = log

    @property
    def peak_memory_mib(self) -> float:
        """The most memory it has held at once."""
        return peak_memory_mib(self._process.pid)

    @property
    def cpu_seconds(self) -> float:
        """Processor time it has used."""
        return cpu_seconds(self._process.pid)

    @property
    def pid(self) -> int:
        """Its number, for profilers."""
        return self._process.pid

    def check(self) -> None:
        """Raise when it has ended by itself."""
        if self._process.poll() is not None:
            words = self._log.read_text(errors="replace")[-2000:]
            raise BenchmarkError(f"the operator ended with code {self._process.returncode}: {words}")

    async def stop(self) -> None:
        """End it as the kubelet does."""
        self._process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(self._process.wait, STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)


@asynccontextmanager
async def running(
    command: Sequence[str], environment: Mapping[str, str], log: Path, ready_url: str
) -> AsyncIterator[tuple[Running, float]]:
    """Start a process; yields it with the seconds that it took until this URL answered 200."""
    process = _start(command, environment, log)
    try:
        await _wait_until_ready(process, ready_url)
        yield process, time.monotonic() - process.started_at
        process.check()
    finally:
        await process.stop()


def _start(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Running:
    with log.open("ab") as output:
        started_at = time.monotonic()
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=output, stderr=subprocess.STDOUT
        )
    return Running(process, started_at, log)


async def _wait_until_ready(process: Running, url: str) -> None:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        while not await _answers(session, url):
            process.check()
            if time.monotonic() > process.started_at + READY_TIMEOUT_SECONDS:
                raise BenchmarkError(f"{url} did not answer within {READY_TIMEOUT_SECONDS:g} s")
            await asyncio.sleep(POLL_SECONDS)


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url) as response:
            return response.status == 200
    except (aiohttp.ClientError, OSError, TimeoutError):
        return False


def free_port() -> int:
    """A port on loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


PYTHON = sys.executable
