"""etcd, kube-apiserver, controllers and scheduler: a real control plane, ready in seconds, with or without nodes.

Alone it listens on loopback and needs no root; a full cluster gives it the bridge address, which pods reach.
"""

import time
from functools import cached_property
from pathlib import Path

from devcluster import preflight, state
from devcluster.control_plane_config import (
    AUDIT_POLICY,
    Endpoints,
    build_apiserver_command,
    build_client_command,
    build_controller_manager_command,
    build_etcd_command,
)
from devcluster.credentials import Credentials, ensure_credentials
from devcluster.errors import DevClusterError
from devcluster.http_client import ApiClient, answers, client_tls, unverified_tls
from devcluster.kubeconfig import write_kubeconfig
from devcluster.processes import Component
from devcluster.programs import ensure_programs, link_programs
from devcluster.site import Site
from devcluster.state import Description

PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
PORTS = ("etcd", "etcd-peer", "kube-apiserver", "kube-controller-manager", "kube-scheduler")


class ControlPlane(Site):
    """A control plane in a state folder; as a context manager it is gone, with its folder, at the end."""

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.state.kubeconfig

    @property
    def kubectl(self) -> Path:
        """A kubectl of the same version as the cluster."""
        return self.state.programs / "kubectl"

    @property
    def audit_log(self) -> Path:
        """One JSON object a line for every request that the apiserver answered."""
        return self.state.audit_log

    @cached_property
    def endpoints(self) -> Endpoints:
        return Endpoints(self._address, state.load_ports(self.state, PORTS, self._address))

    @cached_property
    def credentials(self) -> Credentials:
        return ensure_credentials(self.state.pki, self._address)

    @cached_property
    def client(self) -> ApiClient:
        tls = client_tls(self.credentials.authority.certificate, self.credentials.administrator)
        return ApiClient(self.endpoints.apiserver, tls)

    def start(self) -> None:
        """Start what does not run yet and wait until the API can be used."""
        if not self.state.root.exists():
            preflight.check_free_disk(self.state.root, preflight.FREE_GIB["control-plane"], "a control plane")
        programs = ensure_programs(PROGRAMS, self._console)
        self.state.ensure()
        if state.load_description(self.state) is None:
            state.save_description(self.state, Description("control-plane"))
        link_programs(programs, self.state.programs)
        self._write_kubeconfigs()
        self.processes.ensure_all_running([self._etcd()], self._console)
        self.start_apiserver()
        self.processes.ensure_all_running([self._controller_manager(), self._scheduler()], self._console)
        self._wait_for_default_service_account()

    def stop(self) -> None:
        """Stop every process; the data stays."""
        self.processes.stop("kube-scheduler")
        self.processes.stop("kube-controller-manager")
        self.stop_apiserver()
        self.processes.stop("etcd")

    def start_apiserver(self) -> None:
        """Start the apiserver again, at the same address and with the same data."""
        self.processes.ensure_all_running([self._apiserver()], self._console)

    def stop_apiserver(self) -> None:
        """Stop the apiserver alone: an outage for everybody who talks to it."""
        # Its graceful end waits up to a minute for watches; the clients of a dev cluster have to cope.
        self.processes.stop("kube-apiserver", grace_seconds=3.0)

    def components(self) -> list[Component]:
        """Describe the processes of the control plane in the order in which they start."""
        return [self._etcd(), self._apiserver(), self._controller_manager(), self._scheduler()]

    def _write_kubeconfigs(self) -> None:
        server, authority = self.endpoints.apiserver, self.credentials.authority
        for path, client in (
            (self.kubeconfig, self.credentials.administrator),
            (self._component_kubeconfig("kube-controller-manager"), self.credentials.controller_manager),
            (self._component_kubeconfig("kube-scheduler"), self.credentials.scheduler),
        ):
            write_kubeconfig(path, server, authority, client)

    def _component_kubeconfig(self, name: str) -> Path:
        return self.state.config / f"{name}.kubeconfig"

    def _etcd(self) -> Component:
        tls = client_tls(self.credentials.etcd_authority.certificate, self.credentials.etcd)
        command = build_etcd_command(
            self.state.programs / "etcd", self.state.root / "etcd", self.endpoints, self.credentials
        )
        return Component("etcd", command, lambda: answers(f"{self.endpoints.etcd}/readyz", tls))

    def _apiserver(self) -> Component:
        policy = state.write_json(self.state.config / "audit-policy.json", AUDIT_POLICY)
        command = build_apiserver_command(
            self.state.programs / "kube-apiserver", self.state, self.endpoints, self.credentials, policy
        )
        return Component("kube-apiserver", command, self.client.is_ready, inputs=(policy,))

    def _controller_manager(self) -> Component:
        name = "kube-controller-manager"
        command = build_controller_manager_command(
            self.state.programs / name, self._component_kubeconfig(name), self.endpoints, self.credentials
        )
        return self._client_component(name, command)

    def _scheduler(self) -> Component:
        name = "kube-scheduler"
        command = build_client_command(
            self.state.programs / name, self._component_kubeconfig(name), self.endpoints.ports[name]
        )
        return self._client_component(name, command)

    def _client_component(self, name: str, command: tuple[str, ...]) -> Component:
        # Its serving certificate is self-signed, in memory, and nobody but this probe asks it.
        probe = f"{self.endpoints.local(name)}/healthz"
        return Component(
            name,
            command,
            lambda: answers(probe, unverified_tls()),
            inputs=(self._component_kubeconfig(name),),
        )

    def _wait_for_default_service_account(self, timeout_seconds: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_seconds
        while self.client.read("/api/v1/namespaces/default/serviceaccounts/default") is None:
            if time.monotonic() > deadline:
                raise DevClusterError(
                    "kube-controller-manager made no ServiceAccount 'default' within "
                    f"{timeout_seconds:.0f} s; look at {self.processes.log_path('kube-controller-manager')}"
                )
            time.sleep(0.05)
