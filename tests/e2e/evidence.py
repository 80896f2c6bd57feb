"""What a run leaves for people to see: logs, objects, events, and the processes of its containers.

Kept for two ends: the security tests search all of it, and a test that fails shows what is there of its own namespace.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from examples.quickstart.environment import Environment, QuickstartError
from examples.quickstart.installation import NAMESPACE as OPERATOR_NAMESPACE
from finetune_api.names import CONFIG_DIRECTORY
from tests.e2e import nodes

# Secrets and nothing else of a namespace may hold secrets.
KINDS = "finetunejobs,jobs,pods,services,configmaps,events,serviceaccounts,leases,deployments,replicasets"
SHOWN_CHARACTERS = 6000
POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Process:
    """A process in a container, as the machine's kernel describes it."""

    argv: tuple[str, ...]
    environment: bytes
    status: dict[str, str]
    root_is_read_only: bool
    is_first: bool

    @property
    def part(self) -> str:
        """Which part of the project it is: operator, prepare, train …"""
        words = " ".join(self.argv)
        if "finetune_operator" in words:
            return "operator"
        after = (
            self.argv[self.argv.index("finetune_trainer") + 1 :] if "finetune_trainer" in self.argv else ()
        )
        return after[0] if after else words


@dataclass
class Evidence:
    """Everything that was seen, by where."""

    texts: dict[str, str] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)
    # Values of the Secrets and tokens that were mounted somewhere, by the file.
    secrets: dict[str, str] = field(default_factory=dict)

    def collect(self, environment: Environment, namespace: str) -> None:
        """Read a namespace's objects and logs, as long as they are there."""
        run = environment.run
        objects = run("kubectl", "-n", namespace, "get", KINDS, "-o", "yaml", quiet=True)
        self.texts[f"objects of {namespace}"] = objects
        for pod in run("kubectl", "-n", namespace, "get", "pods", "-o", "name", quiet=True).split():
            # Its container may not have started, and it may be gone by now.
            with contextlib.suppress(QuickstartError):
                self.texts[f"log of {namespace} {pod}"] = run(
                    "kubectl", "-n", namespace, "logs", pod, quiet=True
                )

    def show(self, environment: Environment, namespace: str) -> str:
        """What a person would look at first: the namespace's jobs, events and logs, and the operator's log."""
        for each in (namespace, OPERATOR_NAMESPACE):
            self.collect(environment, each)
        described = environment.run("kubectl", "-n", namespace, "describe", "ftj,jobs,pods", quiet=True)
        logs = {
            where: text[-SHOWN_CHARACTERS:]
            for where, text in self.texts.items()
            if where.startswith((f"log of {namespace} ", f"log of {OPERATOR_NAMESPACE} "))
        }
        return "\n".join([described, *(f"--- {where}\n{text}" for where, text in logs.items())])


@contextlib.contextmanager
def watching_processes(evidence: Evidence) -> Iterator[None]:
    """Note every process in the nodes' containers, and the secrets that are mounted there, while the block runs."""
    ended, seen = threading.Event(), set[int]()

    def watch() -> None:
        while not ended.wait(POLL_SECONDS):
            for node in nodes.NODES:
                for pid, _ in nodes.processes_of(node):
                    if pid not in seen and _note(pid, evidence):
                        seen.add(pid)

    thread = threading.Thread(target=watch, name="processes")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _note(pid: int, evidence: Evidence) -> bool:
    """Whether it could be noted: not while the runtime still prepares the container, nor once it has ended."""
    argv = nodes.argv_of(pid)
    if not argv or Path(argv[0]).name.startswith("runc"):
        return False
    if argv[0] == nodes.PAUSE:
        return True
    with contextlib.suppress(OSError):
        evidence.processes.append(_read(pid, argv))
        evidence.secrets.update(_read_mounted_secrets(pid))
    return True


def _read(pid: int, argv: list[str]) -> Process:
    folder = Path(f"/proc/{pid}")
    status = dict(
        line.split(":\t", 1) for line in (folder / "status").read_text().splitlines() if ":\t" in line
    )
    root = next(
        line.split() for line in (folder / "mountinfo").read_text().splitlines() if line.split()[4] == "/"
    )
    return Process(
        argv=tuple(argv),
        environment=(folder / "environ").read_bytes(),
        status=status,
        root_is_read_only="ro" in root[5].split(","),
        is_first=nodes.is_first_in_container(pid),
    )


def _read_mounted_secrets(pid: int) -> Iterator[tuple[str, str]]:
    """The files that hold keys and tokens. Names that begin with dots are how kubelet swaps them."""
    top = Path(f"/proc/{pid}/root")
    for folder in (
        top / f"{CONFIG_DIRECTORY.lstrip('/')}/credentials",
        top / f"{CONFIG_DIRECTORY.lstrip('/')}/progress",
    ):
        for path in folder.rglob("*"):
            if path.is_file() and not any(part.startswith("..") for part in path.parts):
                yield str(path.relative_to(top)), path.read_text().strip()
