"""Removes a cluster: pods, processes, mounts, cgroups, links, tables and folders, in this order.

It goes by what is found on the machine, not only by what was recorded, so that it also clears up after a crash.
"""

import contextlib
import shutil
from pathlib import Path

from devcluster import mounts, network
from devcluster.addresses import node_address
from devcluster.console import Console
from devcluster.control_plane import ControlPlane
from devcluster.errors import DevClusterError
from devcluster.node import Node, node_folders
from devcluster.preflight import check_root
from devcluster.processes import ProcessTable, find_processes, terminate
from devcluster.programs import PROGRAMS
from devcluster.state import (
    NODE_DATA_FALLBACK,
    Description,
    StateDirectory,
    load_description,
    lock_state,
    save_description,
)

MOST_NODES = 2
OUR_PROGRAMS = frozenset(PROGRAMS) | {"containerd", "containerd-shim-runc-v2", "nsenter"}


def remove_cluster(state: StateDirectory, *, keep_images: bool, console: Console) -> None:
    """Remove everything that was ever started from this state folder."""
    description = load_description(state)
    if description is None:
        console.say(f"nothing runs from {state.root}")
    if not state.description.exists():
        # The folder may be anything: nothing in it is touched.
        return
    if description is not None and description.mode == "full":
        check_root("removing a full cluster")
        _remove_nodes(state, console)
    _stop_processes(state, console)
    if description is not None and description.mode == "full":
        _remove_mounts_and_network(state, console)
    _remove_folders(state, keep_images=keep_images)


def remove_network_of_the_dead(state: StateDirectory, console: Console) -> None:
    """Remove the network of another cluster of which no program runs; its folders stay, and its `up` mends it."""
    owner = network.find_owner()
    if owner in (None, state.root):
        return
    other = StateDirectory(owner)
    # Its own `up` may have begun: the network comes before the programs.
    with lock_state(other):
        if find_processes(OUR_PROGRAMS, f"{owner}/"):
            return
        with console.step(f"removing the network of the cluster in {owner}, of which nothing runs"):
            network.remove_network(other, [node.address for node in _nodes(other)])


def _remove_nodes(state: StateDirectory, console: Console) -> None:
    for node in _nodes(state):
        if node.folders.run.exists() or node.folders.root.exists():
            with console.step(f"ending the pods and programs of {node.name}"):
                node.stop()


def _stop_processes(state: StateDirectory, console: Console) -> None:
    processes = ProcessTable(state)
    names = processes.names()
    if names:
        with console.step(f"stopping {', '.join(names)}"):
            # The apiserver would wait for etcd and for its clients; nothing of it is needed any more.
            for name in sorted(names, key=lambda name: name == "etcd"):
                processes.stop(name, grace_seconds=2.0)
    terminate(find_processes(OUR_PROGRAMS, f"{state.root}/"), grace_seconds=2.0)


def _remove_mounts_and_network(state: StateDirectory, console: Console) -> None:
    folders = [node_folders(state, node.name) for node in _nodes(state)]
    with console.step("removing mounts and network"):
        mounts.unmount_below(state.root, state.run, *(each.root for each in folders))
        if network.owns_bridge(state):
            network.remove_network(state, [node.address for node in _nodes(state)])


def _remove_folders(state: StateDirectory, *, keep_images: bool) -> None:
    if left := mounts.mount_points_below(mounts.MOUNTS.read_text(), (state.root, state.run)):
        raise DevClusterError(f"{left[0]} is still mounted; unmount it and run `down` again")
    nodes = _nodes(state)
    for node in nodes:
        node.clear(keep_images=keep_images)
    shutil.rmtree(state.run, ignore_errors=True)
    for folder in (state.run.parent, NODE_DATA_FALLBACK / state.identity, NODE_DATA_FALLBACK):
        with contextlib.suppress(OSError):
            folder.rmdir()
    kept = {node.name for node in nodes if node.folders.root.exists()}
    # The description goes last: without it a second `down` would not know what there is to remove.
    _remove_children(state.root, kept | {".gitignore", state.description.name})
    if kept:
        save_description(state, Description("images"))
    else:
        shutil.rmtree(state.root)


def _remove_children(folder: Path, kept: set[str]) -> None:
    for path in folder.iterdir():
        if path.name in kept:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _nodes(state: StateDirectory) -> list[Node]:
    plane = ControlPlane(state.root)
    return [Node(node_address(number, state.identity), plane) for number in range(1, MOST_NODES + 1)]
