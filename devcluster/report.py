"""Shows a cluster to the person at the terminal: the health of every part, and the log files."""

from collections.abc import Sequence
from pathlib import Path

from devcluster.cluster import open_cluster
from devcluster.console import QUIET
from devcluster.control_plane import ControlPlane
from devcluster.errors import DevClusterError
from devcluster.node import GPU_RESOURCE
from devcluster.object_store import S3Server
from devcluster.processes import Component, ProcessTable
from devcluster.state import Description, StateDirectory, load_description


def print_status(state: StateDirectory) -> int:
    """Print one line for every part; return 1 when one of them is not healthy."""
    description = load_description(state)
    if description is None:
        print(f"no cluster in {state.root}")
        return 1
    processes = ProcessTable(state)
    health = {
        component.name: describe_health(component, processes) for component in _components(state, description)
    }
    print(f"{describe_cluster(description)} in {state.root}")
    for name, words in health.items():
        print(f"  {name:<26} {words}")
    if description.mode != "control-plane":
        print(f"  S3 endpoint                {_s3_endpoint(state, description)}")
    return 0 if all(words == "healthy" for words in health.values()) else 1


def describe_health(component: Component, processes: ProcessTable) -> str:
    """Say in a few words how a component is."""
    if processes.is_healthy(component):
        return "healthy"
    if not processes.is_running(component.name):
        return "not running (`up` starts it)"
    return "does not answer, or runs with old settings (`up` restarts it)"


def describe_cluster(description: Description) -> str:
    """Say what kind of cluster this is."""
    if description.mode != "full":
        return {"control-plane": "control plane", "s3": "S3 server"}[description.mode]
    nodes = f"{description.nodes} node" + ("s" if description.nodes > 1 else "")
    return f"cluster with {nodes}, {description.gpus} {GPU_RESOURCE} each,"


def print_log_files(state: StateDirectory) -> int:
    """Print every log file with its size."""
    for path in _log_files(state):
        print(f"{path.stat().st_size / 1024:>10.1f} KiB  {path}")
    return 0


def find_log(state: StateDirectory, component: str) -> Path:
    """Find a component's log file."""
    path = state.logs / f"{component}.log"
    if path not in _log_files(state):
        known = ", ".join(each.stem for each in _log_files(state)) or "none"
        raise DevClusterError(f"there is no log of {component!r} in {state.logs}; there are: {known}")
    return path


def _log_files(state: StateDirectory) -> Sequence[Path]:
    return sorted(state.logs.glob("*.log"))


def _components(state: StateDirectory, description: Description) -> list[Component]:
    if description.mode == "full":
        return open_cluster(state.root, QUIET).components()
    if description.mode == "s3":
        return [S3Server(state.root).component()]
    return ControlPlane(state.root).components()


def _s3_endpoint(state: StateDirectory, description: Description) -> str:
    if description.mode == "full":
        return open_cluster(state.root, QUIET).object_store.endpoint
    return S3Server(state.root).endpoint
