"""A full cluster: network, control plane, DNS, S3 server and one or two real nodes with real pods.

`up` is a list of steps, each of which does nothing where its result is there and healthy; so the same list starts,
completes and repairs a cluster.
"""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from devcluster import dns, network, node_config, preflight, teardown
from devcluster.addresses import CLUSTER_DOMAIN, HOST_ADDRESS, node_address
from devcluster.console import QUIET, Console
from devcluster.control_plane import ControlPlane
from devcluster.environment import write_environment
from devcluster.errors import DevClusterError
from devcluster.images import load_image
from devcluster.kubeconfig import write_kubeconfig
from devcluster.node import Node
from devcluster.object_store import S3Server
from devcluster.pause_image import ensure_pause_image
from devcluster.preparation import prepare_machine
from devcluster.processes import Component
from devcluster.programs import link_programs
from devcluster.state import Description, StateDirectory, load_description, save_description


class Cluster:
    """A full cluster in a state folder; as a context manager it is gone, with its folder, at the end."""

    def __init__(self, state_dir: Path, *, nodes: int = 1, gpus: int = 0, console: Console = QUIET) -> None:
        self.state = StateDirectory(state_dir.resolve())
        self.description = Description("full", nodes, gpus)
        self._console = console
        self.control_plane = ControlPlane(self.state.root, address=HOST_ADDRESS, console=console)
        self.object_store = S3Server(self.state.root, address=HOST_ADDRESS, console=console)
        self.processes = self.control_plane.processes
        self.nodes = [
            Node(node_address(number, self.state.identity), self.control_plane)
            for number in range(1, nodes + 1)
        ]

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        teardown.remove_cluster(self.state, keep_images=False, console=self._console)

    @property
    def kubeconfig(self) -> Path:
        return self.control_plane.kubeconfig

    @property
    def kubectl(self) -> Path:
        return self.control_plane.kubectl

    def up(self) -> None:
        """Bring the cluster up, or complete and repair it."""
        self._check_machine()
        self._refuse_fewer_nodes()
        self._settle(prepare_machine(self._console))
        self.control_plane.start()
        self.object_store.start()
        dns.apply_rights(self.control_plane.client)
        self._run(self._coredns())
        for node in self.nodes:
            self._start_node(node)
        write_environment(self.state, self.object_store)

    def components(self) -> list[Component]:
        """Describe every process of the cluster in the order in which they start."""
        nodes = [component for node in self.nodes for component in node.components()]
        return [*self.control_plane.components(), self.object_store.component(), self._coredns(), *nodes]

    def load_image(self, name: str) -> None:
        """Bring an image from buildah's local store to every node."""
        load_image(name, self.nodes, self._console)

    def _check_machine(self) -> None:
        preflight.check_root("a full cluster")
        if not self.state.root.exists():
            preflight.check_free_disk(
                self.state.root, preflight.FREE_GIB["full"], "a full cluster with the trainer's images"
            )

    def _refuse_fewer_nodes(self) -> None:
        before = load_description(self.state)
        if before is not None and before.nodes > self.description.nodes:
            raise DevClusterError(
                f"the cluster in {self.state.root} has {before.nodes} nodes, and nodes can only be added. "
                "Remove it first with `down`; loaded images stay."
            )

    def _settle(self, programs: Mapping[str, Path]) -> None:
        self.state.ensure()
        link_programs(programs, self.state.programs)
        teardown.remove_network_of_the_dead(self.state, self._console)
        network.claim_bridge(self.state)
        save_description(self.state, self.description)
        network.ensure_network(self.state, [node.address for node in self.nodes])

    def _start_node(self, node: Node) -> None:
        node.prepare()
        self._run(node.containerd())
        ensure_pause_image(node, self.state.programs / "pause", node_config.PAUSE_IMAGE)
        self._run(node.kubelet())
        self._run(node.kube_proxy())
        if not node.is_ready():
            with self._console.step(f"waiting for {node.name} to be Ready"):
                node.wait_ready()
        node.offer_gpus(self.description.gpus)

    def _run(self, component: Component) -> None:
        self.processes.ensure_all_running([component], self._console)

    def _coredns(self) -> Component:
        plane, config = self.control_plane, self.state.config
        user = plane.credentials.authority.issue("coredns", f"/CN={dns.USER}")
        kubeconfig = write_kubeconfig(
            config / "coredns.kubeconfig", plane.endpoints.apiserver, plane.credentials.authority, user
        )
        return dns.component(self.state.programs / "coredns", config, kubeconfig, CLUSTER_DOMAIN)


def open_cluster(
    root: Path, console: Console, *, nodes: int | None = None, gpus: int | None = None
) -> Cluster:
    """Return the cluster of a state folder; what is not given is as it was when the cluster was last brought up."""
    before = load_description(StateDirectory(root.resolve())) or Description("full", nodes=1, gpus=0)
    return Cluster(
        root,
        nodes=before.nodes if nodes is None else nodes,
        gpus=before.gpus if gpus is None else gpus,
        console=console,
    )
