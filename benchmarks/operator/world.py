"""One control plane with everything that a measurement needs: administrator, operator, rival, audit log."""

from __future__ import annotations

import asyncio
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from benchmarks.machine import cpu_seconds
from benchmarks.operator.api import Api, ApiError, connect
from benchmarks.operator.audit import AuditLog
from benchmarks.operator.installation import (
    Account,
    Installation,
    install_crd,
    install_operator,
    install_rival,
)
from benchmarks.operator.processes import PYTHON, Running, free_port, running
from devcluster import ControlPlane
from devcluster.console import QUIET
from devcluster.processes import Component
from finetune_api import API_VERSION, PLURAL

SYSTEM_NAMESPACE = "finetune-system"
CONTROLLERS = "kube-controller-manager"
COMPONENTS = ("etcd", "kube-apiserver", CONTROLLERS)
RIVAL = "naive-operator"
NAIVE_OPERATOR = Path(__file__).with_name("naive_operator.py")
# The Job controller of kube-controller-manager makes 20 requests a second by default; where its pods are only the
# means to another end, it may go faster.
FAST_CONTROLLERS = ("--kube-api-qps=500", "--kube-api-burst=1000")
# What the apiserver says of a resource whose CRD was installed just now.
NOT_SERVED_YET = (404, 429, 503)


@dataclass(frozen=True)
class World:
    """A control plane that nobody else uses."""

    plane: ControlPlane
    api: Api
    audit: AuditLog
    installation: Installation
    rival: Account
    folder: Path
    controllers: Component
    """kube-controller-manager as it was started."""
    namespace: str
    """Where the measurement's jobs are; empty at first."""

    def operator(
        self, progress_port: int | None = None, **environment: str
    ) -> AbstractAsyncContextManager[tuple[Running, float]]:
        """Start the operator as the chart starts it; only its ports are its own."""
        health_port, progress_port = free_port(), progress_port or free_port()
        return running(
            [PYTHON, "-m", "finetune_operator"],
            {
                **self.installation.environment,
                "KUBECONFIG": str(self.installation.account.kubeconfig),
                "FINETUNE_HEALTH_PORT": str(health_port),
                "FINETUNE_PROGRESS_PORT": str(progress_port),
                "FINETUNE_PROGRESS_SERVICE_URL": f"https://127.0.0.1:{progress_port}",
                **environment,
            },
            self.folder / "operator.log",
            f"http://127.0.0.1:{health_port}/readyz",
        )

    def cpu_seconds(self) -> dict[str, float]:
        """Processor time used until now by the control plane's programs and by the benchmark itself."""
        records = {name: self.plane.processes.load(name) for name in COMPONENTS}
        used = {name: cpu_seconds(record.pid) for name, record in records.items() if record is not None}
        return {**used, "benchmark": time.process_time()}

    @contextmanager
    def without_controllers(self) -> Iterator[None]:
        """Stop kube-controller-manager for a while, so that it does not work on what is only to be stored."""
        self.plane.processes.stop(CONTROLLERS)
        try:
            yield
        finally:
            self.plane.processes.ensure_all_running([self.controllers], QUIET)

    def naive_operator(self) -> AbstractAsyncContextManager[tuple[Running, float]]:
        """Start the rival."""
        url = f"http://127.0.0.1:{free_port()}/healthz"
        command = [
            "kopf",
            "run",
            "--all-namespaces",
            "--standalone",
            f"--liveness={url}",
            str(NAIVE_OPERATOR),
        ]
        environment = {"KUBECONFIG": str(self.rival.kubeconfig)}
        return running([PYTHON, "-m", *command], environment, self.folder / "naive-operator.log", url)


class OpenWorld(Protocol):
    """How a measurement gets a control plane."""

    def __call__(self, *, fast_controllers: bool = False) -> AbstractAsyncContextManager[World]:
        """Open one; at its end it is given back."""


@asynccontextmanager
async def new_world(*, fast_controllers: bool = False) -> AsyncIterator[World]:
    """Start a control plane of its own, without a scheduler: there are no nodes."""
    # A short path: sockets stand in it.
    with tempfile.TemporaryDirectory(prefix="ftb-") as name:
        folder = Path(name)
        plane = ControlPlane(folder / "plane")
        try:
            controllers = await asyncio.to_thread(_start, plane, fast_controllers)
            async with connect(plane) as api:
                yield await _in_new_namespace(await _furnish(plane, api, controllers, folder))
        finally:
            await asyncio.to_thread(plane.stop)


@asynccontextmanager
async def _same(world: World) -> AsyncIterator[World]:
    yield await _in_new_namespace(world)


def share(world: World) -> OpenWorld:
    """Open the same control plane again and again, each time with an empty namespace: quick, and less clean."""
    return lambda **_: _same(world)


async def _in_new_namespace(world: World) -> World:
    namespace = f"team-{secrets.token_hex(3)}"
    await world.api.create_namespace(namespace)
    return replace(world, namespace=namespace)


def _start(plane: ControlPlane, fast_controllers: bool) -> Component:
    """Start it; returns kube-controller-manager as it runs."""
    plane.start()
    plane.processes.stop("kube-scheduler")
    controllers = next(each for each in plane.components() if each.name == CONTROLLERS)
    if fast_controllers:
        controllers = replace(controllers, command=(*controllers.command, *FAST_CONTROLLERS))
        plane.processes.ensure_all_running([controllers], QUIET)
    return controllers


async def _furnish(plane: ControlPlane, api: Api, controllers: Component, folder: Path) -> World:
    await install_crd(api)
    await api.create_namespace(SYSTEM_NAMESPACE)
    installation = await install_operator(plane, api, SYSTEM_NAMESPACE)
    rival = await install_rival(plane, api, SYSTEM_NAMESPACE, RIVAL)
    await _wait_for_crd(api)
    return World(plane, api, AuditLog(plane.audit_log), installation, rival, folder, controllers, "")


async def _wait_for_crd(api: Api) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                await api.send("GET", f"apis/{API_VERSION}/{PLURAL}")
            except ApiError as error:
                if error.status not in NOT_SERVED_YET:
                    raise
                await asyncio.sleep(0.05)
            else:
                return
