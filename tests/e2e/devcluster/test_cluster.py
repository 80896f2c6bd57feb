"""A full cluster with two real nodes: real pods on it, repair, and a removal that leaves nothing behind.

It stands in a network namespace of its own, without a way out: it can run beside the cluster that the other tests use,
and what `up` needs is there before, by `prepare`.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from devcluster.base_image import BASE_IMAGE, ensure_base_image
from devcluster.console import QUIET
from devcluster.processes import ProcessTable, find_processes, terminate
from devcluster.programs import PROGRAMS
from devcluster.state import StateDirectory

ROOT = Path(__file__).parents[3]
NAMESPACE = "devcluster-test"
GPU = "finetune.dev/fake-gpu"
OURS = frozenset(PROGRAMS) | {"containerd", "containerd-shim-runc-v2"}


@dataclass(frozen=True)
class Site:
    """A state folder, and the network namespace in which its cluster stands."""

    state: StateDirectory
    network: str

    def inside(self, *command: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a program in the network namespace, without the environment of another cluster."""
        environment = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}
        return subprocess.run(
            ["nsenter", f"--net=/run/netns/{self.network}", *command],
            cwd=ROOT,
            env=environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def devcluster(self, command: str, *arguments: str) -> str:
        """Run the command line, as a user does."""
        where = ("--state-dir", str(self.state.root))
        result = self.inside(sys.executable, "-m", "devcluster", command, *arguments, *where)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        program = (str(self.state.programs / "kubectl"), "--kubeconfig", str(self.state.kubeconfig))
        result = self.inside(*program, "--namespace", NAMESPACE, *arguments, stdin=stdin)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def apply(self, *objects: dict[str, Any]) -> None:
        self.kubectl(
            "apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        )

    def read(self, *what: str) -> dict[str, Any]:
        return dict(json.loads(self.kubectl("get", *what, "--output=json")))

    def wait_for_pod(self, name: str, phase: str, timeout_seconds: float = 60) -> dict[str, Any]:
        """Wait until a pod is in the phase, and return its status."""
        deadline = time.monotonic() + timeout_seconds
        while (status := self.read("pod", name)["status"])["phase"] != phase:
            assert time.monotonic() < deadline, status
            time.sleep(0.2)
        return dict(status)


def traces(site: Site) -> list[str]:
    """List everything on the machine that is the cluster's."""
    root, identity = str(site.state.root), site.state.identity
    mounts = [
        line
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if root in line or identity in line
    ]
    cgroups = [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/ft-{identity}-*")]
    links = [str(path) for path in Path("/var/log/containers").glob("*") if root in str(path.readlink())]
    namespaces = [str(path) for path in Path("/run/netns").glob(f"*{identity}*")]
    processes = [str(pid) for pid in find_processes(OURS, root) + find_processes(OURS, f"/{identity}/")]
    run = [str(path) for path in (site.state.run, site.state.root) if path.exists()]
    return mounts + cgroups + links + namespaces + processes + run


def network_traces(site: Site) -> str:
    """Show the links, tables and forwarding of the namespace."""
    show = "ip -brief link show type bridge; ip -brief link show type veth; nft list tables; ip route; cat /proc/sys/net/ipv4/ip_forward"
    return site.inside("sh", "-c", show).stdout


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    # The cluster's namespace reaches nothing but itself: what comes over a network has to be here before.
    subprocess.run([sys.executable, "-m", "devcluster", "prepare"], cwd=ROOT, check=True)
    ensure_base_image(QUIET)
    with tempfile.TemporaryDirectory(prefix="ft-") as folder:
        site = Site(StateDirectory(Path(folder, "cluster")), f"ft-test-{os.getpid()}")
        subprocess.run(["ip", "netns", "add", site.network], check=True)
        try:
            site.inside("ip", "link", "set", "lo", "up")
            # A new namespace takes this over from the machine's, where another cluster may have switched it on.
            site.inside("sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward")
            yield site
        finally:
            site.devcluster("down", "--purge")
            subprocess.run(["ip", "netns", "delete", site.network], check=True)


@pytest.fixture(scope="module")
def cluster(site: Site) -> Site:
    site.devcluster("up", "--nodes", "2", "--gpus", "1")
    site.devcluster("load-image", BASE_IMAGE)
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    site.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}})
    return site


def pod_spec(code: str, *, memory: str = "64Mi", gpus: int = 0, **fields: Any) -> dict[str, Any]:
    """A pod that the restricted Pod Security Standard allows, running a piece of Python."""
    container = {
        "name": "main",
        "image": BASE_IMAGE,
        "command": ["python3", "-uc", code],
        "env": [
            {
                "name": "INDEX",
                "valueFrom": {
                    "fieldRef": {
                        "fieldPath": "metadata.annotations['batch.kubernetes.io/job-completion-index']"
                    }
                },
            }
        ],
        "resources": {"limits": {"memory": memory, **({GPU: str(gpus)} if gpus else {})}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    security = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    return {"restartPolicy": "Never", "securityContext": security, "containers": [container], **fields}


def make_pod(name: str, code: str, **arguments: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app": name}},
        "spec": pod_spec(code, **arguments),
    }


def make_service(name: str, **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def test_up_a_second_time_changes_nothing(cluster: Site) -> None:
    assert "starting" not in cluster.devcluster("up")
    assert cluster.devcluster("status").count("healthy") == 12


def test_a_pod_serves_behind_a_service_and_can_be_looked_into(cluster: Site) -> None:
    serve = "import http.server as h; h.HTTPServer(('', 8000), h.SimpleHTTPRequestHandler).serve_forever()"
    cluster.apply(
        make_pod("web", serve, nodeName="node-2"),
        make_service("web", selector={"app": "web"}, ports=[{"port": 80, "targetPort": 8000}]),
        make_pod("client", "import time; time.sleep(1000)", nodeName="node-1"),
    )
    cluster.wait_for_pod("web", "Running")
    cluster.wait_for_pod("client", "Running")
    # A pod can be Running before kube-proxy has written its Service's rule: until then there is no route.
    fetch = """
import time, urllib.request
deadline = time.monotonic() + 20
while True:
    try:
        print(urllib.request.urlopen("{}", timeout=5).status)
        break
    except OSError:
        if time.monotonic() > deadline:
            raise
        time.sleep(0.2)
"""
    for url in (f"http://web.{NAMESPACE}.svc.cluster.local/", "http://web/"):
        answer = cluster.kubectl("exec", "client", "--", "python3", "-c", fetch.format(url))
        assert answer.strip() == "200", url
    assert '"GET / HTTP/1.1" 200' in cluster.kubectl("logs", "web")


def test_a_pod_reaches_the_apiserver_with_its_token_and_the_s3_server(cluster: Site) -> None:
    endpoint = next(
        line.partition("=")[2]
        for line in cluster.state.environment.read_text().splitlines()
        if "S3_ENDPOINT" in line
    )
    code = f"""
import ssl, urllib.request
mount = "/var/run/secrets/kubernetes.io/serviceaccount/"
tls = ssl.create_default_context(cafile=mount + "ca.crt")
headers = {{"Authorization": "Bearer " + open(mount + "token").read()}}
request = urllib.request.Request("https://kubernetes.default.svc/api", headers=headers)
print(urllib.request.urlopen(request, context=tls, timeout=20).status)
print(urllib.request.urlopen("{endpoint}/devcluster-health", timeout=20).status)
"""
    cluster.apply(make_pod("caller", code))
    cluster.wait_for_pod("caller", "Succeeded")
    assert cluster.kubectl("logs", "caller").split() == ["200", "200"]


def test_a_gang_of_two_meets_across_both_nodes(cluster: Site) -> None:
    code = """
import os, socket, time
if os.environ["INDEX"] == "0":
    connection, _ = socket.create_server(("", 29500)).accept()
    print(connection.recv(100).decode())
else:
    deadline = time.monotonic() + 40
    while True:
        try:
            connection = socket.create_connection(("gang-0.gang", 29500), 3)
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    connection.sendall(b"hello")
"""
    template = {"spec": pod_spec(code, gpus=1, subdomain="gang")}
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "gang", "namespace": NAMESPACE},
        "spec": {
            "completions": 2,
            "parallelism": 2,
            "completionMode": "Indexed",
            "backoffLimit": 0,
            "template": template,
        },
    }
    headless = make_service(
        "gang", clusterIP="None", publishNotReadyAddresses=True, selector={"job-name": "gang"}
    )
    cluster.apply(headless, job)
    cluster.kubectl("wait", "--for=condition=Complete", "job/gang", "--timeout=90s")
    pods = cluster.read("pods", "--selector=job-name=gang")["items"]
    assert {pod["spec"]["nodeName"] for pod in pods} == {"node-1", "node-2"}
    assert "hello" in cluster.kubectl("logs", "--selector=job-name=gang", "--tail=-1")


def test_gpus_are_counted(cluster: Site) -> None:
    cluster.apply(make_pod("greedy", "pass", gpus=2))
    deadline = time.monotonic() + 30
    while not (conditions := cluster.read("pod", "greedy")["status"].get("conditions")):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert conditions[0]["reason"] == "Unschedulable"
    assert f"2 Insufficient {GPU}" in conditions[0]["message"]


def test_too_much_memory_ends_as_in_production(cluster: Site) -> None:
    cluster.apply(make_pod("hungry", "content = b'x' * 500_000_000", memory="48Mi"))
    (container,) = cluster.wait_for_pod("hungry", "Failed")["containerStatuses"]
    ended = container["state"]["terminated"]
    assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137)


def test_an_image_that_a_node_has_is_not_loaded_again(cluster: Site) -> None:
    lines = cluster.devcluster("load-image", BASE_IMAGE).splitlines()
    assert [line.rpartition(": ")[2] for line in lines] == ["node-1 has it", "node-2 has it"]


def test_a_half_dead_cluster_is_repaired_and_its_pods_go_on(cluster: Site) -> None:
    processes = ProcessTable(cluster.state)
    for name in ("kubelet-node-2", "containerd-node-2", "coredns"):
        processes.stop(name, grace_seconds=1)
    assert "starting containerd-node-2" in cluster.devcluster("up")
    assert cluster.devcluster("status").count("healthy") == 12
    for name in ("node-1", "node-2"):
        assert cluster.read("node", name)["status"]["capacity"][GPU] == "1"
    statuses = cluster.wait_for_pod("web", "Running")["containerStatuses"]
    assert [status["restartCount"] for status in statuses] == [0]


def test_a_cluster_takes_over_the_network_of_one_of_which_nothing_runs(cluster: Site, tmp_path: Path) -> None:
    other = Site(StateDirectory(tmp_path / "other"), cluster.network)
    refused = other.inside(sys.executable, "-m", "devcluster", "up", "--state-dir", str(other.state.root))
    assert f"another full cluster, with state folder {cluster.state.root}" in refused.stderr

    # As a reboot, or whoever ends everything that a session started, leaves it.
    terminate(find_processes(OURS | {"nsenter"}, f"{cluster.state.root}/"), grace_seconds=5)
    try:
        assert "removing the network of the cluster in" in other.devcluster("up")
    finally:
        other.devcluster("down", "--purge")


def test_down_keeps_only_the_images_and_purge_not_even_those(cluster: Site) -> None:
    cluster.devcluster("down")
    assert sorted(path.name for path in cluster.state.root.iterdir()) == [
        ".gitignore",
        "cluster.json",
        "node-1",
        "node-2",
    ]
    assert [path.name for path in (cluster.state.root / "node-1").iterdir()] == ["containerd"]
    assert network_traces(cluster).split() == ["0"]
    cluster.devcluster("down", "--purge")
    assert traces(cluster) == []
