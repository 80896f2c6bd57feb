"""CoreDNS as a plain process on the bridge address: the cluster's DNS for Services and for pods by name."""

from pathlib import Path

from devcluster.addresses import DNS_PORT, DNS_READY_PORT, HOST_ADDRESS
from devcluster.http_client import ApiClient, JsonObject, answers
from devcluster.processes import Component
from devcluster.state import write_file

USER = "system:devcluster:coredns"
RBAC_PATH = "/apis/rbac.authorization.k8s.io/v1"


def build_corefile(kubeconfig: Path, cluster_domain: str) -> str:
    """Write CoreDNS's configuration; short lifetimes, because pods here come and go within seconds."""
    return f"""{cluster_domain} in-addr.arpa ip6.arpa {{
    bind {HOST_ADDRESS}
    ready {HOST_ADDRESS}:{DNS_READY_PORT}
    errors
    cache 2
    kubernetes {cluster_domain} in-addr.arpa ip6.arpa {{
        kubeconfig {kubeconfig}
        ttl 2
    }}
}}
"""


def component(program: Path, config: Path, kubeconfig: Path, cluster_domain: str) -> Component:
    """Describe the process."""
    corefile = write_file(config / "Corefile", build_corefile(kubeconfig, cluster_domain))
    command = (str(program), "-conf", str(corefile), "-dns.port", str(DNS_PORT), "-quiet")
    probe = f"http://{HOST_ADDRESS}:{DNS_READY_PORT}/ready"
    return Component("coredns", command, lambda: answers(probe), inputs=(corefile, kubeconfig))


def apply_rights(client: ApiClient) -> None:
    """Let CoreDNS read what it answers from."""
    for path, content in build_rights():
        client.apply(path, content)


def build_rights() -> list[tuple[str, JsonObject]]:
    """Lay out the role of CoreDNS and its binding, with the path of each."""
    rules = [
        {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    role: JsonObject = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": USER},
        "rules": rules,
    }
    binding: JsonObject = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": USER},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": USER},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": USER}],
    }
    return [
        (f"{RBAC_PATH}/clusterroles/{USER}", role),
        (f"{RBAC_PATH}/clusterrolebindings/{USER}", binding),
    ]
