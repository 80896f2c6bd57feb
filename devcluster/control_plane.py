"""etcd, kube-apiserver, controllers and scheduler: a real control plane, ready in seconds, with or without nodes.

Alone it listens on loopback and needs no root; a full cluster gives it the bridge address, which pods reach.
"""

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

from devcluster import pki, preflight, state
from devcluster.console import QUIET, Console
from devcluster.errors import DevClusterError
from devcluster.http_client import ApiClient, answers, client_tls, unverified_tls
from devcluster.kubeconfig import write_kubeconfig
from devcluster.pki import Authority, Certificate
from devcluster.processes import Component, ProcessTable
from devcluster.programs import ensure_programs, link_programs
from devcluster.state import Description, StateDirectory

PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
PORTS = ("etcd", "etcd-peer", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
SERVICE_CIDR = "10.89.128.0/20"
# The first address of the range always belongs to the Service `kubernetes`.
KUBERNETES_SERVICE_ADDRESS = "10.89.128.1"
CLUSTER_DOMAIN = "cluster.local"

AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}


@dataclass(frozen=True)
class Endpoints:
    """Where the parts of a control plane listen."""

    address: str
    ports: Mapping[str, int]

    @property
    def etcd(self) -> str:
        # etcd stays on loopback even where the apiserver does not.
        return f"https://127.0.0.1:{self.ports['etcd']}"

    @property
    def etcd_peer(self) -> str:
        return f"https://127.0.0.1:{self.ports['etcd-peer']}"

    @property
    def apiserver(self) -> str:
        return f"https://{self.address}:{self.ports['kube-apiserver']}"

    def local(self, component: str) -> str:
        """Where a component listens that only its probe asks."""
        return f"https://127.0.0.1:{self.ports[component]}"


@dataclass(frozen=True)
class Credentials:
    """Every certificate and key of a control plane; nodes have theirs signed by the same authority."""

    authority: Authority
    etcd_authority: Authority
    etcd: Certificate
    apiserver: Certificate
    administrator: Certificate
    controller_manager: Certificate
    scheduler: Certificate
    service_accounts: Certificate


def ensure_credentials(folder: Path, address: str) -> Credentials:
    """Make whatever is missing of the control plane's certificates and keys."""
    authority, etcd_authority = Authority(folder, "kubernetes-ca"), Authority(folder, "etcd-ca")
    authority.ensure()
    etcd_authority.ensure()
    service_names = [
        f"kubernetes.default.svc.{CLUSTER_DOMAIN}",
        "kubernetes.default.svc",
        "kubernetes.default",
    ]
    return Credentials(
        authority=authority,
        etcd_authority=etcd_authority,
        etcd=etcd_authority.issue("etcd", "/CN=etcd", ["127.0.0.1"]),
        apiserver=authority.issue(
            "apiserver",
            "/CN=kube-apiserver",
            sorted({"127.0.0.1", address, KUBERNETES_SERVICE_ADDRESS}),
            ["localhost", "kubernetes", *service_names],
        ),
        administrator=authority.issue("admin", "/O=system:masters/CN=devcluster-admin"),
        # An administrator, because a ServiceAccount for each controller would take several seconds at every start.
        controller_manager=authority.issue(
            "controller-manager", "/O=system:masters/CN=system:kube-controller-manager"
        ),
        scheduler=authority.issue("scheduler", "/CN=system:kube-scheduler"),
        service_accounts=pki.ensure_service_account_key(folder),
    )


def build_etcd_command(
    program: Path, data: Path, endpoints: Endpoints, credentials: Credentials
) -> tuple[str, ...]:
    """Write etcd's command line: one member, mutual TLS, no fsync (a crash of the machine may lose the cluster)."""
    authority, own = credentials.etcd_authority.certificate, credentials.etcd
    return (
        str(program),
        "--name=devcluster",
        f"--data-dir={data}",
        f"--listen-client-urls={endpoints.etcd}",
        f"--advertise-client-urls={endpoints.etcd}",
        f"--listen-peer-urls={endpoints.etcd_peer}",
        f"--initial-advertise-peer-urls={endpoints.etcd_peer}",
        f"--initial-cluster=devcluster={endpoints.etcd_peer}",
        "--client-cert-auth",
        f"--trusted-ca-file={authority}",
        f"--cert-file={own.certificate}",
        f"--key-file={own.key}",
        "--peer-client-cert-auth",
        f"--peer-trusted-ca-file={authority}",
        f"--peer-cert-file={own.certificate}",
        f"--peer-key-file={own.key}",
        "--auto-compaction-retention=1h",
        "--quota-backend-bytes=4294967296",
        "--unsafe-no-fsync",
        "--log-level=warn",
    )


def build_apiserver_command(
    program: Path, state: StateDirectory, endpoints: Endpoints, credentials: Credentials, audit_policy: Path
) -> tuple[str, ...]:
    """Write kube-apiserver's command line."""
    issuer = f"https://kubernetes.default.svc.{CLUSTER_DOMAIN}"
    # The Service `kubernetes` cannot have a loopback endpoint: the API refuses one.
    reconciler = "none" if endpoints.address.startswith("127.") else "lease"
    return (
        str(program),
        f"--bind-address={endpoints.address}",
        f"--advertise-address={endpoints.address}",
        f"--secure-port={endpoints.ports['kube-apiserver']}",
        f"--endpoint-reconciler-type={reconciler}",
        f"--etcd-servers={endpoints.etcd}",
        f"--etcd-cafile={credentials.etcd_authority.certificate}",
        f"--etcd-certfile={credentials.etcd.certificate}",
        f"--etcd-keyfile={credentials.etcd.key}",
        f"--tls-cert-file={credentials.apiserver.certificate}",
        f"--tls-private-key-file={credentials.apiserver.key}",
        f"--client-ca-file={credentials.authority.certificate}",
        f"--service-account-issuer={issuer}",
        f"--service-account-key-file={credentials.service_accounts.certificate}",
        f"--service-account-signing-key-file={credentials.service_accounts.key}",
        f"--kubelet-certificate-authority={credentials.authority.certificate}",
        f"--kubelet-client-certificate={credentials.administrator.certificate}",
        f"--kubelet-client-key={credentials.administrator.key}",
        "--kubelet-preferred-address-types=InternalIP",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        f"--service-cluster-ip-range={SERVICE_CIDR}",
        f"--audit-policy-file={audit_policy}",
        f"--audit-log-path={state.audit_log}",
        "--audit-log-maxsize=512",
        "--audit-log-maxbackup=2",
        "--profiling=false",
        "--v=1",
    )


def build_controller_manager_command(
    program: Path, kubeconfig: Path, endpoints: Endpoints, credentials: Credentials
) -> tuple[str, ...]:
    """Write kube-controller-manager's command line."""
    authority = credentials.authority
    return (
        *build_client_command(program, kubeconfig, endpoints.ports["kube-controller-manager"]),
        f"--root-ca-file={authority.certificate}",
        f"--cluster-signing-cert-file={authority.certificate}",
        f"--cluster-signing-key-file={authority.key}",
        f"--service-account-private-key-file={credentials.service_accounts.key}",
    )


def build_client_command(program: Path, kubeconfig: Path, port: int) -> tuple[str, ...]:
    """Write what the command lines of the apiserver's own clients, controllers and scheduler, have in common."""
    return (
        str(program),
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        "--leader-elect=false",
        "--profiling=false",
        "--v=1",
    )


class ControlPlane:
    """A control plane in a state folder; as a context manager it is gone, with its folder, at the end."""

    def __init__(self, state_dir: Path, *, address: str = "127.0.0.1", console: Console = QUIET) -> None:
        self.state = StateDirectory(state_dir.resolve())
        self._address = address
        self._console = console
        self.processes = ProcessTable(self.state)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self.state.root)

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
