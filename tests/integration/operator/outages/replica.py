"""One of several operators: alone in its pod, behind a proxy of its own, and told apart from others in the audit log."""

from __future__ import annotations

import base64
import json
import os
import signal
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.integration.operator.api_client import CORE, wait_until
from tests.integration.operator.chart import Installation
from tests.integration.operator.process import OperatorProcess
from tests.stand_ins.api_proxy import ApiProxy

SERVICE_ACCOUNT = "finetune-operator"
CREDENTIAL = "authentication.kubernetes.io/credential-id"


class Replica(OperatorProcess):
    """`python -m finetune_operator` as one of several."""

    def __init__(self, installation: Installation, pod_name: str, proxy: ApiProxy, folder: Path) -> None:
        self.proxy = proxy
        token = _new_token(installation)
        self._credential = f"JTI={_claims(token)['jti']}"
        own = folder / f"{pod_name}.kubeconfig"
        own.write_text(_with_token(installation.kubeconfig, token))
        kubeconfig = proxy.write_kubeconfig(own, folder)
        super().__init__(replace(installation, kubeconfig=kubeconfig), folder / f"{pod_name}.log")
        self._environment["FINETUNE_POD_NAME"] = pod_name

    def spawn(self, **environment: str) -> None:
        """Start it and wait until it answers its probes, ready or not."""
        self._spawn(environment)
        wait_until(
            lambda: self.ask("healthz")[0], 30, lambda: f"answer of the operator: {self._last_words()}"
        )

    def ask(self, probe: str, timeout: float = 2) -> tuple[int, str]:
        """Ask a probe; 0 without an answer."""
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.health_port}/{probe}", timeout=timeout
            ) as told:
                return told.status, told.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def probe_answers(self, seconds: float) -> set[int]:
        """All that the liveness probe answers for a while."""
        answers, ends = set[int](), time.monotonic() + seconds

        def is_over() -> bool:
            answers.add(self.ask("healthz")[0])
            return time.monotonic() > ends

        wait_until(is_over, seconds + 5)
        return answers

    def wait_until_ready(self, seconds: float = 30) -> None:
        """Wait until it is ready."""
        wait_until(self.is_ready, seconds, lambda: f"ready operator; its log: {self._last_words()}")

    def pause(self) -> None:
        """SIGSTOP: it does nothing at all, and does not notice."""
        self._signal(signal.SIGSTOP)

    def wake(self) -> None:
        """SIGCONT: it goes on as if nothing had been."""
        self._signal(signal.SIGCONT)

    def tell_to_end(self) -> None:
        """SIGTERM, without waiting for the end."""
        self._signal(signal.SIGTERM)

    def wait_for_end(self, seconds: float) -> int:
        """Wait until it has ended; returns the exit code."""
        assert self._process is not None
        code = self._process.wait(timeout=seconds)
        self._process = None
        return code

    def has_ended(self) -> bool:
        """Whether it has ended."""
        return self._process is None or self._process.poll() is not None

    def kill(self) -> None:
        """SIGKILL; its Lease is taken away as well, so that the next test need not wait for it."""
        super().kill()

    def die(self) -> None:
        """SIGKILL, and its Lease stays as it is."""
        self._end(signal.SIGKILL)

    def audited_writes(self, audit_log: Path, since: str) -> list[dict[str, Any]]:
        """Everything that the API server let it change since a time, by the audit log."""
        return [
            entry
            for entry in map(json.loads, audit_log.read_text().splitlines())
            if entry["verb"] not in ("get", "list", "watch")
            and entry["requestReceivedTimestamp"] >= since
            and self._credential in entry["user"].get("extra", {}).get(CREDENTIAL, ())
            and entry["responseStatus"]["code"] < 400
        ]

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)


def _new_token(installation: Installation) -> str:
    answer = installation.home.create(
        CORE, f"serviceaccounts/{SERVICE_ACCOUNT}/token", {"spec": {"expirationSeconds": 7200}}
    )
    return str(answer["status"]["token"])


def _with_token(kubeconfig: Path, token: str) -> str:
    content = json.loads(kubeconfig.read_text())
    content["users"][0]["user"] = {"token": token}
    return json.dumps(content)


def _claims(token: str) -> dict[str, Any]:
    payload = token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return claims
