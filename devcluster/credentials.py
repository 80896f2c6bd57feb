"""Every certificate and key of a control plane; nodes have theirs signed by the same authority."""

from dataclasses import dataclass
from pathlib import Path

from devcluster import pki
from devcluster.addresses import CLUSTER_DOMAIN, KUBERNETES_SERVICE_ADDRESS
from devcluster.pki import Authority, Certificate


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
