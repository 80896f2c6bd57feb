"""Writes the configuration of one node's programs: containerd, CNI, kubelet and kube-proxy. Pure; node.py runs them."""

from dataclasses import dataclass
from pathlib import Path

from devcluster.addresses import CLUSTER_DOMAIN, HOST_ADDRESS, KUBELET_PORT, POD_CIDR, NodeAddress

PAUSE_IMAGE = "localhost/finetune-devcluster/pause:1"
PROXY_HEALTH_PORT = 10256
PROXY_METRICS_PORT = 10249


@dataclass(frozen=True)
class NodeFolders:
    """Where a node keeps its data (on disk) and its sockets (in /run)."""

    root: Path
    run: Path

    @property
    def containerd(self) -> Path:
        """Images and snapshots: what `down` keeps, because loading them again takes minutes."""
        return self.root / "containerd"

    @property
    def kubelet(self) -> Path:
        return self.root / "kubelet"

    @property
    def address_leases(self) -> Path:
        return self.root / "cni-leases"

    @property
    def config(self) -> Path:
        return self.root / "config"

    @property
    def cni_config(self) -> Path:
        return self.config / "cni"

    @property
    def pod_logs(self) -> Path:
        return self.root / "pod-logs"

    @property
    def containerd_socket(self) -> Path:
        return self.run / "containerd.sock"


def build_containerd_config(folders: NodeFolders, cni_bin_dir: Path) -> str:
    """Write containerd's configuration: apart from any containerd that the machine runs itself."""
    return f"""version = 2
root = "{folders.containerd}"
state = "{folders.run / "containerd"}"
disabled_plugins = [
  "io.containerd.internal.v1.opt",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]

[grpc]
  address = "{folders.containerd_socket}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  netns_mounts_under_state_dir = true

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni_bin_dir}"
    conf_dir = "{folders.cni_config}"

  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"

      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        Root = "{folders.run / "runc"}"
        SystemdCgroup = false
"""


def build_cni_config(network: str, node: NodeAddress, bridge: str, folders: NodeFolders) -> dict[str, object]:
    """Write the pod network: a bridge a node, and addresses from the node's own range.

    The lease folder must be the node's own too: the default one is shared and would hand out overlapping addresses.
    """
    addresses = {
        "type": "host-local",
        "dataDir": str(folders.address_leases),
        "ranges": [[{"subnet": node.pod_cidr}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge_plugin = {
        "type": "bridge",
        "bridge": bridge,
        "isGateway": True,
        "hairpinMode": True,
        "ipMasq": False,
        "ipam": addresses,
    }
    return {"cniVersion": "0.4.0", "name": network, "plugins": [bridge_plugin]}


def build_kubelet_config(
    node: NodeAddress, folders: NodeFolders, authority: Path, certificate: Path, key: Path, resolver: Path
) -> dict[str, object]:
    """Write kubelet's configuration; it reserves nothing and evicts only when the disk is all but full."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": node.address,
        "port": KUBELET_PORT,
        "healthzPort": 0,
        "tlsCertFile": str(certificate),
        "tlsPrivateKeyFile": str(key),
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(authority)},
        },
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": f"unix://{folders.containerd_socket}",
        "podLogsDir": str(folders.pod_logs),
        "volumePluginDir": str(folders.root / "volume-plugins"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": node.cgroup,
        # Kubernetes 1.34 still runs on cgroup v1, which some machines have; newer ones are not affected.
        "failCgroupV1": False,
        "failSwapOn": False,
        "makeIPTablesUtilChains": False,
        "enforceNodeAllocatable": [],
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "clusterDNS": [HOST_ADDRESS],
        "clusterDomain": CLUSTER_DOMAIN,
        "resolvConf": str(resolver),
        "podCIDR": node.pod_cidr,
        "maxPods": 110,
        "registerNode": True,
        # Renewed at a quarter of this: five times before the node would count as silent.
        "nodeLeaseDurationSeconds": 20,
        "syncFrequency": "20s",
        "volumeStatsAggPeriod": "0s",
        "logging": {"verbosity": 1},
    }


def build_kube_proxy_config(node: NodeAddress, kubeconfig: Path) -> dict[str, object]:
    """Write kube-proxy's configuration: Services as nftables rules, the kernel's conntrack limits left alone."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "hostnameOverride": node.name,
        "clusterCIDR": POD_CIDR,
        "detectLocalMode": "ClusterCIDR",
        "bindAddress": node.address,
        "healthzBindAddress": f"{node.address}:{PROXY_HEALTH_PORT}",
        "metricsBindAddress": f"{node.address}:{PROXY_METRICS_PORT}",
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
        "logging": {"verbosity": 1},
    }
