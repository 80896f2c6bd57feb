"""Makes and removes the network below a full cluster: a bridge, and a network namespace for every further node.

Nothing leaves the machine: the bridge has no uplink and no address is translated.
"""

import json
from ipaddress import ip_network
from pathlib import Path

from devcluster import state
from devcluster.addresses import BRIDGE, HOST_ADDRESS, NETWORK, POD_BRIDGE, PREFIX_LENGTH, NodeAddress
from devcluster.commands import run, succeeds
from devcluster.errors import DevClusterError
from devcluster.state import RUN_ROOT, StateDirectory

KUBE_PROXY_TABLES = (("ip", "kube-proxy"), ("ip6", "kube-proxy"))
FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")


def ensure_network(directory: StateDirectory, nodes: list[NodeAddress]) -> None:
    """Create what is missing of the bridge, forwarding and the further nodes' namespaces."""
    claim_bridge(directory)
    if not _link_exists(BRIDGE):
        run("ip", "link", "add", BRIDGE, "type", "bridge")
    run("ip", "address", "replace", f"{HOST_ADDRESS}/{PREFIX_LENGTH}", "dev", BRIDGE)
    run("ip", "link", "set", BRIDGE, "up")
    _enable_forwarding(directory)
    for node in nodes:
        if node.namespace is not None:
            _ensure_namespace(node)


def claim_bridge(directory: StateDirectory) -> None:
    """Refuse a second full cluster on this machine, and a machine that uses our addresses otherwise."""
    owner = find_owner()
    if owner not in (None, directory.root) and _link_exists(BRIDGE):
        raise DevClusterError(
            f"another full cluster, with state folder {owner}, has the bridge {BRIDGE}. End it with `python -m "
            f"devcluster down --state-dir {owner}`, or use `up --control-plane-only`, of which there can be many."
        )
    taken = find_conflict(json.loads(run("ip", "-json", "route", "show", "table", "all")))
    if taken:
        raise DevClusterError(
            f"this machine already routes {taken}, which overlaps the dev cluster's {NETWORK}. Remove that network "
            "(`ip route` shows it), or use a cluster of your own by CLUSTER=current."
        )
    state.write_file(_owner_path(), str(directory.root))


def find_conflict(routes: list[dict[str, object]]) -> str | None:
    """Find a route of somebody else that overlaps our addresses; default routes do not count."""
    for route in routes:
        destination, device = str(route.get("dst", "")), str(route.get("dev", ""))
        if destination == "default" or ":" in destination or device in {BRIDGE, POD_BRIDGE}:
            continue
        if ip_network(destination, strict=False).overlaps(ip_network(NETWORK)):
            return f"{destination} by {device}"
    return None


def remove_network(directory: StateDirectory, nodes: list[NodeAddress]) -> None:
    """Remove every link, namespace and table of ours, and put forwarding back as it was."""
    for node in nodes:
        if node.namespace is not None:
            if _link_exists(node.veth):
                run("ip", "link", "delete", node.veth)
            if Path(node.namespace_path).exists():
                run("ip", "netns", "delete", node.namespace)
    for link in (POD_BRIDGE, BRIDGE):
        if _link_exists(link):
            run("ip", "link", "delete", link)
    for family, table in KUBE_PROXY_TABLES:
        if succeeds("nft", "list", "table", family, table):
            run("nft", "delete", "table", family, table)
    _restore_forwarding(directory)
    _owner_path().unlink(missing_ok=True)


def owns_bridge(directory: StateDirectory) -> bool:
    """Say whether this cluster's network stands on the machine."""
    return find_owner() == directory.root


def find_owner() -> Path | None:
    """Read the state folder of the cluster whose network stands on the machine."""
    return Path(_owner_path().read_text()) if _owner_path().exists() else None


def _owner_path() -> Path:
    # There is one bridge in a network namespace, and there can be a cluster in each.
    return RUN_ROOT / f"bridge-{Path('/proc/self/ns/net').stat().st_ino}"


def _ensure_namespace(node: NodeAddress) -> None:
    if not Path(node.namespace_path).exists():
        run("ip", "netns", "add", str(node.namespace))
    if not _link_exists(node.veth):
        run(
            "ip",
            "link",
            "add",
            node.veth,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            str(node.namespace),
        )
    run("ip", "link", "set", node.veth, "master", BRIDGE, "up")
    inside = ("ip", "-netns", str(node.namespace))
    run(*inside, "link", "set", "lo", "up")
    run(*inside, "address", "replace", f"{node.address}/{PREFIX_LENGTH}", "dev", "eth0")
    run(*inside, "link", "set", "eth0", "up")
    run(*inside, "route", "replace", "default", "via", HOST_ADDRESS)
    run("nsenter", f"--net={node.namespace_path}", "sh", "-c", f"echo 1 > {FORWARDING}")
    run("ip", "route", "replace", node.pod_cidr, "via", node.address, "dev", BRIDGE)


def _enable_forwarding(directory: StateDirectory) -> None:
    before = FORWARDING.read_text().strip()
    if before != "1":
        state.write_file(_forwarding_before(directory), before)
        FORWARDING.write_text("1")


def _restore_forwarding(directory: StateDirectory) -> None:
    saved = _forwarding_before(directory)
    if saved.exists():
        FORWARDING.write_text(saved.read_text())
        saved.unlink()


def _forwarding_before(directory: StateDirectory) -> Path:
    return directory.config / "ip-forward-before"


def _link_exists(name: str) -> bool:
    # /sys shows the links of the namespace in which it was mounted, `ip` those of its own.
    return succeeds("ip", "link", "show", "dev", name)
