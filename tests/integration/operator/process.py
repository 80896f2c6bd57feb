"""The operator as a process of its own, so that tests can kill it like a kubelet or an out-of-memory killer would."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.integration.operator.api_client import COORDINATION, wait_until
from tests.integration.operator.chart import Installation

LEASE = "finetune-operator"
CRASH_POINT = "FINETUNE_CRASH_POINT"


class OperatorProcess:
    """`python -m finetune_operator` with ports of its own."""

    def __init__(self, installation: Installation, log: Path) -> None:
        self.progress_port, self.health_port = _free_port(), _free_port()
        self.progress_url = f"https://127.0.0.1:{self.progress_port}"
        self.log = log
        self.home = installation.home
        self._environment = {
            **os.environ,
            **installation.environment,
            "KUBECONFIG": str(installation.kubeconfig),
            "FINETUNE_PROGRESS_SERVICE_URL": self.progress_url,
            "FINETUNE_PROGRESS_PORT": str(self.progress_port),
            "FINETUNE_HEALTH_PORT": str(self.health_port),
            "FINETUNE_PROGRESS_INTERVAL_SECONDS": "0.2",
            "FINETUNE_RESTART_DELAY_SECONDS": "0.2",
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, **environment: str) -> None:
        """Start it and wait until it is ready."""
        self._spawn(environment)
        wait_until(self.is_ready, 30, lambda: f"ready operator; its log: {self._last_words()}")

    def start_to_crash(self, point: str, **environment: str) -> None:
        """Start it so that it kills itself when it comes to a crash point; it may be there before it is ready."""
        self._spawn({CRASH_POINT: point, **environment})

    def wait_for_crash(self, seconds: float = 20) -> None:
        """Wait until it has killed itself."""
        assert self._process is not None
        try:
            code = self._process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"no crash after {seconds} s; its log: {self._last_words()}") from None
        assert code == -signal.SIGKILL, f"it ended by itself with {code}: {self._last_words()}"
        self._process = None
        self._release_lease()

    def is_ready(self) -> bool:
        """Whether /readyz says so."""
        assert self._process is not None
        assert self._process.poll() is None, f"the operator has ended: {self._last_words()}"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.health_port}/readyz", timeout=2):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> None:
        """SIGKILL: nothing can be finished or written."""
        self._end(signal.SIGKILL)
        self._release_lease()

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        return self._end(signal.SIGTERM)

    @contextmanager
    def restarted_with(self, **environment: str) -> Iterator[None]:
        """Run it with other settings for a while."""
        self.stop()
        try:
            self.start(**environment)
            yield
        finally:
            self.stop()
            self.start()

    @contextmanager
    def down(self) -> Iterator[None]:
        """Let it be killed for a while."""
        self.kill()
        try:
            yield
        finally:
            self.start()

    def _spawn(self, environment: dict[str, str]) -> None:
        assert self._process is None, "the operator runs already"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "finetune_operator"],
                env={**self._environment, **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _end(self, number: signal.Signals) -> int:
        if self._process is None:
            return 0
        self._process.send_signal(number)
        code = self._process.wait(timeout=15)
        self._process = None
        return code

    def _release_lease(self) -> None:
        """Do at once what would come of waiting until the dead holder's Lease has run out (test_alone shows that)."""
        lease = self.home.read(COORDINATION, "leases", LEASE)
        if lease is not None and lease["spec"].get("holderIdentity"):
            self.home.patch(COORDINATION, "leases", LEASE, {"spec": {"holderIdentity": ""}})

    def _last_words(self) -> str:
        return self.log.read_text()[-4000:]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
