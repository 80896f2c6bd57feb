"""Writes the command lines of etcd, apiserver, controllers and scheduler. Pure; control_plane.py runs them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from devcluster.addresses import CLUSTER_DOMAIN, SERVICE_CIDR
from devcluster.credentials import Credentials
from devcluster.state import StateDirectory

# How long a node may be silent before it is NotReady: half of what is usual, for tests that wait for it.
NODE_SILENCE_SECONDS = 25
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
        f"--node-monitor-grace-period={NODE_SILENCE_SECONDS}s",
        "--node-monitor-period=2s",
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
