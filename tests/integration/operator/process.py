"""The operator as a process of its own, so that tests can kill it like a kubelet or an out-of-memory killer would."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

from tests.integration.operator.api_client import wait_until
from tests.integration.operator.chart import Installation


class OperatorProcess:
    """`python -m finetune_operator` with ports of its own."""

    def __init__(self, installation: Installation, log: Path) -> None:
        self.progress_port, self.health_port = _free_port(), _free_port()
        self.progress_url = f"https://127.0.0.1:{self.progress_port}"
        self.log = log
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
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "finetune_operator"],
                env={**self._environment, **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        wait_until(self.is_ready, 30, lambda: f"ready operator; its log: {self.log.read_text()[-4000:]}")

    def is_ready(self) -> bool:
        """Whether /readyz says so."""
        assert self._process is not None
        assert self._process.poll() is None, f"the operator has ended: {self.log.read_text()[-4000:]}"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.health_port}/readyz", timeout=2):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> None:
        """SIGKILL: nothing can be finished or written."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        if self._process is None:
            return 0
        self._process.send_signal(number)
        code = self._process.wait(timeout=15)
        self._process = None
        return code


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
