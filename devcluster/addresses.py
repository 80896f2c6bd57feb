"""Every network name and address of a cluster, in one place.

All of it lies in 10.89.0.0/16; kubelet's logs and exec, and the Service `kubernetes`, need addresses that are not
loopback, hence the bridge.
"""

from dataclasses import dataclass

BRIDGE = "ft0"
POD_BRIDGE = "ft-pods"
HOST_ADDRESS = "10.89.0.1"
PREFIX_LENGTH = 24
NETWORK = "10.89.0.0/16"
POD_CIDR = "10.89.0.0/17"
SERVICE_CIDR = "10.89.128.0/20"
# The first address of the range always belongs to the Service `kubernetes`.
KUBERNETES_SERVICE_ADDRESS = "10.89.128.1"
CLUSTER_DOMAIN = "cluster.local"
DNS_PORT = 53
DNS_READY_PORT = 8181
KUBELET_PORT = 10250


@dataclass(frozen=True)
class NodeAddress:
    """Where a node stands: the first one in the machine's own network namespace, others in one of their own."""

    name: str
    address: str
    pod_cidr: str
    cgroup: str
    namespace: str | None

    @property
    def veth(self) -> str:
        """The bridge's end of the link to a node with its own network namespace."""
        return f"ft-{self.name}"

    @property
    def namespace_path(self) -> str:
        return f"/run/netns/{self.namespace}"


def node_address(number: int, cluster: str) -> NodeAddress:
    """Lay out the node of this number, counted from 1, in the cluster of this identity."""
    return NodeAddress(
        name=f"node-{number}",
        address=f"10.89.0.{number}",
        pod_cidr=f"10.89.{number}.0/24",
        cgroup=f"/ft-{cluster}-{number}",
        namespace=None if number == 1 else f"ft-{cluster}-{number}",
    )
