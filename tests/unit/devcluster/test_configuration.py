"""The command lines and configuration files of the cluster's programs."""

import json
import subprocess
from pathlib import Path

import pytest

from devcluster import dns, node, node_config
from devcluster.addresses import HOST_ADDRESS, node_address
from devcluster.control_plane_config import (
    Endpoints,
    build_apiserver_command,
    build_client_command,
    build_etcd_command,
)
from devcluster.credentials import Credentials
from devcluster.environment import build_environment
from devcluster.node_config import NodeFolders
from devcluster.pki import Authority, Certificate
from devcluster.state import StateDirectory

PORTS = {"etcd": 1, "etcd-peer": 2, "kube-apiserver": 3, "kube-controller-manager": 4, "kube-scheduler": 5}


def make_credentials() -> Credentials:
    authority, certificate = (
        Authority(Path("/pki"), "ca"),
        Certificate(Path("/pki/c.crt"), Path("/pki/c.key")),
    )
    return Credentials(authority, authority, *[certificate] * 6)


def make_folders(name: str = "node-1") -> NodeFolders:
    return NodeFolders(Path("/state") / name, Path("/run/x") / name)


def make_apiserver_command(address: str) -> tuple[str, ...]:
    state = StateDirectory(Path("/state"))
    return build_apiserver_command(
        Path("/a"), state, Endpoints(address, PORTS), make_credentials(), Path("/policy")
    )


@pytest.mark.parametrize(
    ("address", "reconciler"),
    [
        pytest.param("127.0.0.1", "none", id="loopback cannot be an endpoint of the Service kubernetes"),
        pytest.param(HOST_ADDRESS, "lease", id="pods reach the bridge address"),
    ],
)
def test_the_apiserver_listens_on_one_address_only(address: str, reconciler: str) -> None:
    command = make_apiserver_command(address)
    assert f"--bind-address={address}" in command
    assert f"--endpoint-reconciler-type={reconciler}" in command


def test_the_apiserver_authorises_and_audits_as_a_real_one_does() -> None:
    command = make_apiserver_command(HOST_ADDRESS)
    assert "--authorization-mode=Node,RBAC" in command
    assert "--enable-admission-plugins=NodeRestriction" in command
    assert "--audit-log-path=/state/logs/audit.log" in command
    assert not [argument for argument in command if "disable-admission" in argument]


def test_etcd_is_on_loopback_behind_certificates_even_where_the_apiserver_is_not() -> None:
    command = build_etcd_command(
        Path("/etcd"), Path("/data"), Endpoints(HOST_ADDRESS, PORTS), make_credentials()
    )
    assert "--listen-client-urls=https://127.0.0.1:1" in command
    assert {"--client-cert-auth", "--peer-client-cert-auth"} <= set(command)


def test_controllers_and_scheduler_are_asked_on_loopback_only() -> None:
    assert "--bind-address=127.0.0.1" in build_client_command(Path("/scheduler"), Path("/kubeconfig"), 5)


def test_nodes_have_ranges_leases_and_cgroups_of_their_own() -> None:
    first, second = node_address(1, "abc"), node_address(2, "abc")
    assert first.pod_cidr != second.pod_cidr
    assert first.cgroup != second.cgroup
    assert (first.namespace, second.namespace) == (None, "ft-abc-2")
    configs = [
        json.dumps(node_config.build_cni_config("net", address, "bridge", make_folders(address.name)))
        for address in (first, second)
    ]
    assert "/state/node-1/cni-leases" in configs[0]
    assert "/state/node-2/cni-leases" in configs[1]
    assert first.pod_cidr in configs[0]


def test_links_have_names_that_the_kernel_takes() -> None:
    assert len(node_address(2, "12345678").veth) <= 15


def test_containerd_is_apart_from_the_machines_own() -> None:
    config = node_config.build_containerd_config(make_folders(), Path("/usr/lib/cni"))
    assert 'root = "/state/node-1/containerd"' in config
    assert 'address = "/run/x/node-1/containerd.sock"' in config
    assert "/var/lib/containerd" not in config
    assert "netns_mounts_under_state_dir = true" in config


def test_kubelet_runs_on_both_cgroup_versions_and_asks_who_calls() -> None:
    config = node_config.build_kubelet_config(
        node_address(1, "abc"), make_folders(), Path("/ca"), Path("/crt"), Path("/key"), Path("/resolv")
    )
    assert config["failCgroupV1"] is False
    assert config["cgroupRoot"] == "/ft-abc-1"
    assert config["authorization"] == {"mode": "Webhook"}
    assert config["clusterDNS"] == [HOST_ADDRESS]


def test_kube_proxy_leaves_the_machines_conntrack_limits_alone() -> None:
    config = node_config.build_kube_proxy_config(node_address(1, "abc"), Path("/kubeconfig"))
    assert config["mode"] == "nftables"
    assert config["conntrack"] == {
        "maxPerCore": 0,
        "min": 0,
        "tcpEstablishedTimeout": "0s",
        "tcpCloseWaitTimeout": "0s",
    }


def test_dns_answers_for_the_cluster_alone_and_may_only_read() -> None:
    corefile = dns.build_corefile(Path("/kubeconfig"), "cluster.local")
    assert f"bind {HOST_ADDRESS}" in corefile
    assert "forward" not in corefile
    assert json.dumps(dns.build_rights()).count('"verbs": ["list", "watch"]') == 2
    assert json.dumps(dns.build_rights()).count('"verbs"') == 2


def test_gpus_are_offered_as_capacity_and_as_allocatable() -> None:
    assert node.build_gpu_patch(2) == [
        {"op": "add", "path": "/status/capacity/finetune.dev~1fake-gpu", "value": "2"},
        {"op": "add", "path": "/status/allocatable/finetune.dev~1fake-gpu", "value": "2"},
    ]


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        pytest.param([{"type": "Ready", "status": "True"}], True, id="ready"),
        pytest.param([{"type": "Ready", "status": "Unknown"}], False, id="not heard of"),
        pytest.param([{"type": "DiskPressure", "status": "True"}], False, id="another condition"),
        pytest.param([], False, id="no condition yet"),
    ],
)
def test_a_node_is_ready_by_its_own_word(conditions: list[dict[str, str]], expected: bool) -> None:
    assert node.has_ready_condition({"status": {"conditions": conditions}}) is expected


def test_the_environment_survives_quoting_and_being_sourced_twice(tmp_path: Path) -> None:
    lines = build_environment({"AWS_SECRET_ACCESS_KEY": "it's $HOME"}, "/some where/bin")
    (tmp_path / "env").write_text(lines)
    script = '. "$0"; . "$0"; echo "$AWS_SECRET_ACCESS_KEY"; echo "$PATH"'
    answer = subprocess.run(
        ["bash", "-c", script, str(tmp_path / "env")],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.splitlines() == ["it's $HOME", "/some where/bin:/usr/bin:/bin"]
