"""Where a cluster keeps everything it owns: one state folder, and one short folder in /run for sockets.

All other modules ask this one for paths, so that `down` knows every place it has to clear.
"""

import fcntl
import hashlib
import json
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from devcluster.errors import DevClusterError

# "images": a full cluster that was removed, and left only the images of its nodes.
Mode = Literal["control-plane", "full", "s3", "images"]

# sun_path of a Unix socket holds 108 bytes, the last one being NUL.
LONGEST_SOCKET_PATH = 107
RUN_ROOT = Path("/run/finetune-devcluster")
NODE_DATA_FALLBACK = Path("/var/lib/finetune-devcluster")


@dataclass(frozen=True)
class StateDirectory:
    """The folder of one cluster."""

    root: Path

    @property
    def identity(self) -> str:
        """A short name of this folder, for places that many clusters share."""
        return hashlib.sha256(str(self.root).encode()).hexdigest()[:8]

    @property
    def run(self) -> Path:
        """Sockets and container state: short, and gone after a reboot."""
        return RUN_ROOT / self.identity

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def processes(self) -> Path:
        return self.root / "processes"

    @property
    def pki(self) -> Path:
        return self.root / "pki"

    @property
    def config(self) -> Path:
        return self.root / "config"

    @property
    def programs(self) -> Path:
        """Links to the programs in use, for the user's PATH."""
        return self.root / "bin"

    @property
    def kubeconfig(self) -> Path:
        return self.root / "kubeconfig"

    @property
    def environment(self) -> Path:
        return self.root / "env"

    @property
    def audit_log(self) -> Path:
        return self.logs / "audit.log"

    @property
    def image_layouts(self) -> Path:
        return self.root / "images"

    @property
    def description(self) -> Path:
        return self.root / "cluster.json"

    def ensure(self) -> None:
        """Create the folder and keep it out of version control, wherever it lies."""
        for folder in (self.root, self.logs, self.processes, self.config, self.programs):
            folder.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o700)
        (self.root / ".gitignore").write_text("*\n")


@dataclass(frozen=True)
class Description:
    """What `up` was asked for, kept so that `status`, `down` and a second `up` know it."""

    mode: Mode
    nodes: int = 0
    gpus: int = 0


def load_description(state: StateDirectory) -> Description | None:
    """Read what cluster is in this state folder; None when there is none."""
    if not state.description.exists():
        return None
    content = json.loads(state.description.read_text())
    if content["mode"] == "images":
        return None
    return Description(mode=content["mode"], nodes=content["nodes"], gpus=content["gpus"])


def save_description(state: StateDirectory, description: Description) -> None:
    """Write what this state folder is."""
    content = {"mode": description.mode, "nodes": description.nodes, "gpus": description.gpus}
    write_file(state.description, json.dumps(content))


def ensure_mode(state: StateDirectory, mode: Mode, *, must_exist: bool = False) -> None:
    """Refuse a command that does not fit what is in the state folder."""
    description = load_description(state)
    if description is None and must_exist:
        raise DevClusterError(
            f"there is no cluster in {state.root}; start one with `python -m devcluster up`"
        )
    if description is not None and description.mode != mode:
        raise DevClusterError(
            f"{state.root} holds a cluster of the kind '{description.mode}', and this needs '{mode}'. "
            "Remove it first with `down`, or choose another folder by --state-dir."
        )


@contextmanager
def lock_state(state: StateDirectory) -> Iterator[None]:
    """Let one `up` or `down` at a time work on a state folder; others wait."""
    path = Path(tempfile.gettempdir(), f"finetune-devcluster-{state.identity}.lock")
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def choose_node_root(state: StateDirectory, node: str) -> Path:
    """Decide where a node's data lies: in the state folder, unless kubelet's socket paths would be too long."""
    inside = state.root / node
    deepest_socket = inside / "kubelet/pod-resources/kubelet.sock"
    if len(os.fsencode(deepest_socket)) <= LONGEST_SOCKET_PATH:
        return inside
    return NODE_DATA_FALLBACK / state.identity / node


def load_ports(state: StateDirectory, names: Sequence[str], address: str = "127.0.0.1") -> dict[str, int]:
    """Return a port for each name: the ones chosen before, and free ones for new names."""
    path = state.config / "ports.json"
    ports: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
    missing = [name for name in names if name not in ports]
    if missing:
        ports |= dict(zip(missing, _free_ports(len(missing), address), strict=True))
        write_file(path, json.dumps(ports, indent=1))
    return {name: ports[name] for name in names}


def _free_ports(count: int, address: str) -> list[int]:
    # All sockets stay open until the last port is known, so that none is handed out twice.
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind((address, 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


def write_file(path: Path, content: str, mode: int = 0o600) -> Path:
    """Write a file whole or not at all, readable by its owner only unless told otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(content)
    temporary.replace(path)
    return path


def write_json(path: Path, content: object, mode: int = 0o600) -> Path:
    """Write a configuration file; every Kubernetes component reads JSON where it reads YAML."""
    return write_file(path, json.dumps(content, indent=1) + "\n", mode)
