"""One node: containerd, kubelet and kube-proxy, in the machine's network namespace or in one of their own.

cluster.py starts nodes once the control plane answers; images.py brings images into their containerd.
"""

import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from devcluster import cgroups, leftovers, node_config, preflight
from devcluster.addresses import KUBELET_PORT, POD_BRIDGE, NodeAddress
from devcluster.commands import run, succeeds
from devcluster.control_plane import ControlPlane
from devcluster.errors import DevClusterError
from devcluster.http_client import JsonObject, answers, client_tls
from devcluster.kubeconfig import write_kubeconfig
from devcluster.node_config import NodeFolders
from devcluster.pki import Certificate
from devcluster.processes import Component, find_processes, terminate
from devcluster.state import StateDirectory, choose_node_root, write_file, write_json

NAMESPACE = "k8s.io"
GPU_RESOURCE = "finetune.dev/fake-gpu"
SHIM = frozenset({"containerd-shim-runc-v2"})


def node_folders(state: StateDirectory, name: str) -> NodeFolders:
    """Lay out the folders of a node."""
    return NodeFolders(choose_node_root(state, name), state.run / name)


class Node:
    """A node of a full cluster."""

    def __init__(self, address: NodeAddress, control_plane: ControlPlane) -> None:
        self.address = address
        self.name = address.name
        self.folders = node_folders(control_plane.state, address.name)
        self._control_plane = control_plane
        self._processes = control_plane.processes
        self._network = f"ft-{control_plane.state.identity}"

    def components(self) -> list[Component]:
        """Describe the node's processes in the order in which they start."""
        return [self.containerd(), self.kubelet(), self.kube_proxy()]

    def prepare(self) -> None:
        """Make the folders, the cgroup and the settings that do not depend on a running process."""
        for folder in (self.folders.containerd, self.folders.kubelet, self.folders.config, self.folders.run):
            folder.mkdir(parents=True, exist_ok=True)
        self.folders.root.chmod(0o711)
        cgroups.ensure_cgroup(self.address.cgroup)
        cni = node_config.build_cni_config(self._network, self.address, POD_BRIDGE, self.folders)
        write_json(self.folders.cni_config / "10-devcluster.conflist", cni)

    def containerd(self) -> Component:
        plugins = preflight.cni_bin_dir()
        if plugins is None:
            raise DevClusterError(
                "the CNI plugins are missing; install the package containernetworking-plugins"
            )
        content = node_config.build_containerd_config(self.folders, plugins)
        config = write_file(self.folders.config / "containerd.toml", content)
        command = self._inside("containerd", "--config", str(config))
        return Component(
            self._component_name("containerd"),
            command,
            lambda: succeeds("ctr", "--address", self.folders.containerd_socket, "version"),
            inputs=(config,),
        )

    def kubelet(self) -> Component:
        authority = self._control_plane.credentials.authority
        serving = authority.issue(
            f"kubelet-serving-{self.name}", f"/CN={self.name}", [self.address.address], [self.name]
        )
        resolver = write_file(
            self.folders.config / "resolv.conf", "# the cluster's DNS stands alone\n", 0o644
        )
        content = node_config.build_kubelet_config(
            self.address, self.folders, authority.certificate, serving.certificate, serving.key, resolver
        )
        config = write_json(self.folders.config / "kubelet.json", content)
        command = self._inside(
            str(self._control_plane.state.programs / "kubelet"),
            f"--config={config}",
            f"--kubeconfig={self._kubeconfig('kubelet', f'/O=system:nodes/CN=system:node:{self.name}')}",
            f"--root-dir={self.folders.kubelet}",
            f"--node-ip={self.address.address}",
            f"--hostname-override={self.name}",
        )
        tls = client_tls(authority.certificate, self._control_plane.credentials.administrator)
        probe = f"https://{self.address.address}:{KUBELET_PORT}/healthz"
        return Component(
            self._component_name("kubelet"), command, lambda: answers(probe, tls), inputs=(config,)
        )

    def kube_proxy(self) -> Component:
        kubeconfig = self._kubeconfig("kube-proxy", "/CN=system:kube-proxy")
        content = node_config.build_kube_proxy_config(self.address, kubeconfig)
        config = write_json(self.folders.config / "kube-proxy.json", content)
        command = self._inside(str(self._control_plane.state.programs / "kube-proxy"), f"--config={config}")
        probe = f"http://{self.address.address}:{node_config.PROXY_HEALTH_PORT}/healthz"
        return Component(
            self._component_name("kube-proxy"), command, lambda: answers(probe), inputs=(config,)
        )

    def ctr(self, *arguments: str | Path, stdin: bytes | None = None) -> str:
        """Run containerd's client against this node."""
        return run(*self.ctr_command(*arguments), stdin=stdin)

    def ctr_command(self, *arguments: str | Path) -> tuple[str | Path, ...]:
        """Write the command line of containerd's client."""
        return ("ctr", "--address", self.folders.containerd_socket, "--namespace", NAMESPACE, *arguments)

    @contextmanager
    def importing(self) -> Iterator[IO[bytes]]:
        """Give a stream for an image archive, which containerd reads while it is being written."""
        with subprocess.Popen(
            self.ctr_command("images", "import", "-"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            # When containerd refuses the archive, what it says about it is the better error.
            with contextlib.suppress(BrokenPipeError):
                yield process.stdin
                process.stdin.close()
            words = process.stdout.read().decode(errors="replace").strip()
        if process.returncode != 0:
            raise DevClusterError(f"containerd of {self.name} refused the image: {words[-1000:]}")

    def wait_ready(self, timeout_seconds: float = 60.0) -> None:
        """Wait until the node is Ready, as `kubectl get nodes` shows it."""
        deadline = time.monotonic() + timeout_seconds
        while not self.is_ready():
            if time.monotonic() > deadline:
                log = self._processes.log_path(self._component_name("kubelet"))
                raise DevClusterError(
                    f"{self.name} was not Ready within {timeout_seconds:.0f} s; look at {log}"
                )
            time.sleep(0.1)

    def is_ready(self) -> bool:
        found = self._control_plane.client.read(f"/api/v1/nodes/{self.name}")
        return found is not None and has_ready_condition(found)

    def offer_gpus(self, count: int) -> None:
        """Let the node's status offer so many stand-in GPUs; kubelet forgets them whenever it restarts."""
        path = f"/api/v1/nodes/{self.name}"
        if count or GPU_RESOURCE in json.dumps(self._control_plane.client.read(path)):
            self._control_plane.client.patch_json(f"{path}/status", build_gpu_patch(count))

    def stop(self) -> None:
        """End the node's pods and processes and clear what only the running node needs; images stay."""
        for name in ("kubelet", "kube-proxy"):
            self._processes.stop(self._component_name(name))
        if self._processes.is_running(self._component_name("containerd")):
            with contextlib.suppress(DevClusterError):
                self._remove_containers()
        self._processes.stop(self._component_name("containerd"))
        terminate(find_processes(SHIM, str(self.folders.containerd_socket)), grace_seconds=1.0)
        cgroups.remove_cgroup(self.address.cgroup)
        leftovers.remove_log_links(self.folders.pod_logs)
        leftovers.remove_network_results(self._network)
        leftovers.remove_device_plugin_socket()

    def clear(self, keep_images: bool) -> None:
        """Remove the node's folders once nothing is mounted in them; images, in containerd's folder, can stay."""
        shutil.rmtree(self.folders.run, ignore_errors=True)
        if not self.folders.root.exists():
            return
        for path in self.folders.root.iterdir():
            if path != self.folders.containerd:
                shutil.rmtree(path)
        if not keep_images:
            shutil.rmtree(self.folders.root)

    def _remove_containers(self) -> None:
        for kind in ("tasks", "containers"):
            if identifiers := self.ctr(kind, "ls", "--quiet").split():
                force = ["--force"] if kind == "tasks" else []
                self.ctr(kind, "rm", *force, *identifiers)

    def _kubeconfig(self, user: str, subject: str) -> Path:
        credentials, server = self._control_plane.credentials, self._control_plane.endpoints.apiserver
        client: Certificate = credentials.authority.issue(f"{user}-{self.name}", subject)
        return write_kubeconfig(
            self.folders.config / f"{user}.kubeconfig", server, credentials.authority, client
        )

    def _component_name(self, program: str) -> str:
        return f"{program}-{self.name}"

    def _inside(self, *command: str) -> tuple[str, ...]:
        if self.address.namespace is None:
            return command
        # Not `ip netns exec`: it mounts a fresh /sys, which hides the cgroups.
        return ("nsenter", f"--net={self.address.namespace_path}", *command)


def has_ready_condition(node: Mapping[str, object]) -> bool:
    """Read a Node's Ready condition."""
    status = node.get("status")
    conditions = status.get("conditions", []) if isinstance(status, dict) else []
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def build_gpu_patch(count: int) -> list[JsonObject]:
    """Write the JSON patch that makes a node offer so many stand-in GPUs."""
    name = GPU_RESOURCE.replace("/", "~1")
    return [
        {"op": "add", "path": f"/status/{kind}/{name}", "value": str(count)}
        for kind in ("capacity", "allocatable")
    ]
