"""What is read from the machine before something is made or removed: routes, mounts, cgroups, leftovers."""

import socket
from pathlib import Path

import pytest

from devcluster import leftovers
from devcluster.cgroups import hierarchies
from devcluster.mounts import mount_points_below
from devcluster.network import find_conflict


@pytest.mark.parametrize(
    ("routes", "expected"),
    [
        pytest.param([{"dst": "default", "dev": "eth0"}], None, id="the default route is no conflict"),
        pytest.param(
            [{"dst": "10.89.3.0/24", "dev": "podman1"}], "10.89.3.0/24 by podman1", id="a network of podman"
        ),
        pytest.param(
            [{"dst": "10.0.0.0/8", "dev": "vpn0"}], "10.0.0.0/8 by vpn0", id="a VPN over everything"
        ),
        pytest.param([{"dst": "10.89.0.0/24", "dev": "ft0"}], None, id="our own bridge"),
        pytest.param([{"dst": "10.89.1.0/24", "dev": "ft-pods"}], None, id="our own pods"),
        pytest.param([{"dst": "192.168.1.7", "dev": "eth0"}], None, id="a single address elsewhere"),
        pytest.param([{"dst": "fe80::/64", "dev": "eth0"}], None, id="IPv6"),
    ],
)
def test_a_machine_that_uses_our_addresses_is_recognised(
    routes: list[dict[str, object]], expected: str | None
) -> None:
    assert find_conflict(routes) == expected


def mount(point: str, kind: str = "ext4") -> str:
    return f"36 35 98:0 / {point} rw,noatime shared:1 - {kind} /dev/root rw"


def test_mounts_are_removed_in_the_reverse_order_and_only_ours() -> None:
    table = "\n".join(
        [
            mount("/"),
            mount("/state/a"),
            mount("/state/a/b"),
            mount("/state-of-another"),
            mount("/run/x/with\\040space"),
        ]
    )
    found = mount_points_below(table, (Path("/state"), Path("/run/x")))
    assert found == [Path("/run/x/with space"), Path("/state/a/b"), Path("/state/a")]


def test_both_cgroup_versions_are_found() -> None:
    table = "\n".join(
        [mount("/"), mount("/sys/fs/cgroup/memory", "cgroup"), mount("/sys/fs/cgroup/unified", "cgroup2")]
    )
    assert hierarchies(table) == [Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup/unified")]


def test_only_links_to_our_pods_logs_are_removed(tmp_path: Path) -> None:
    links, ours = tmp_path / "containers", tmp_path / "node-1/pod-logs"
    links.mkdir()
    (links / "ours.log").symlink_to(ours / "0.log")
    (links / "theirs.log").symlink_to("/var/log/pods/0.log")
    leftovers.remove_log_links(ours, links)
    assert [path.name for path in links.iterdir()] == ["theirs.log"]
    (links / "theirs.log").unlink()
    leftovers.remove_log_links(ours, links)
    assert not links.exists()


def test_a_socket_somebody_listens_on_stays(tmp_path: Path) -> None:
    folder = tmp_path / "kubelet/device-plugins"
    folder.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "kubelet.sock"))
        server.listen()
        leftovers.remove_device_plugin_socket(folder)
        assert (folder / "kubelet.sock").exists()
    leftovers.remove_device_plugin_socket(folder)
    assert not folder.parent.exists()


def test_only_our_networks_results_are_removed(tmp_path: Path) -> None:
    results = tmp_path / "cni/results"
    results.mkdir(parents=True)
    for name in ("ft-abc-1-eth0", "ft-abc-2-eth0", "podman-1-eth0"):
        (results / name).touch()
    leftovers.remove_network_results("ft-abc", results)
    assert [path.name for path in results.iterdir()] == ["podman-1-eth0"]
