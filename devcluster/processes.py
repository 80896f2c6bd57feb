"""Starts, watches and ends the cluster's programs; each has one record file and one log file.

A record names the process by pid and start time, so that a recycled pid is never mistaken for ours.
"""

import contextlib
import hashlib
import json
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from devcluster.console import Console
from devcluster.errors import DevClusterError
from devcluster.state import StateDirectory, write_json

POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Component:
    """One long-running program of the cluster."""

    name: str
    command: tuple[str, ...]
    is_ready: Callable[[], bool]
    environment: Mapping[str, str] = field(default_factory=dict)
    # A changed content of one of these files means a restart, as a changed command line does.
    inputs: tuple[Path, ...] = ()
    ready_timeout_seconds: float = 60.0

    @property
    def fingerprint(self) -> str:
        """A digest of all that decides how the program behaves."""
        digest = hashlib.sha256(json.dumps([self.command, sorted(self.environment.items())]).encode())
        for path in self.inputs:
            digest.update(path.read_bytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Record:
    """A started process, as remembered between two calls of the command line."""

    name: str
    pid: int
    start_ticks: int
    fingerprint: str


class ProcessTable:
    """The processes of one state folder."""

    def __init__(self, state: StateDirectory) -> None:
        self._state = state

    def ensure_all_running(self, components: Sequence[Component], console: Console) -> None:
        """Start together those that do not run as wanted or do not answer, and wait until all of them do."""
        missing = [component for component in components if not self.is_healthy(component)]
        if not missing:
            return
        with console.step(f"starting {', '.join(component.name for component in missing)}"):
            for component in missing:
                self.start(component)
            for component in missing:
                self.wait_ready(component)

    def start(self, component: Component) -> None:
        """Start the component, ending it first if it runs, and do not wait for it."""
        self.stop(component.name)
        log = os.open(self.log_path(component.name), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            # Not subprocess.Popen: these processes outlive this one and are watched through /proc.
            pid = os.posix_spawnp(
                component.command[0],
                component.command,
                {**os.environ, **component.environment},
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, log, 1),
                    (os.POSIX_SPAWN_DUP2, log, 2),
                ],
                setsid=True,
                # Python ignores this signal, and what is ignored is inherited.
                setsigdef=[signal.SIGPIPE],
            )
        finally:
            os.close(log)
        record = Record(component.name, pid, read_start_ticks(pid) or 0, component.fingerprint)
        write_json(self._record_path(component.name), record.__dict__)

    def wait_ready(self, component: Component) -> None:
        """Wait until the component answers; a program that ends before that is an error with its last words."""
        deadline = time.monotonic() + component.ready_timeout_seconds
        while not component.is_ready():
            record = self.load(component.name)
            if record is None or not is_alive(record):
                raise DevClusterError(self._last_words(component.name, "ended before it was ready"))
            if time.monotonic() > deadline:
                waited = f"was not ready within {component.ready_timeout_seconds:.0f} s"
                raise DevClusterError(self._last_words(component.name, waited))
            time.sleep(POLL_SECONDS)

    def stop(self, name: str, grace_seconds: float = 10.0) -> None:
        """End a component: politely, then not."""
        record = self.load(name)
        if record is None:
            return
        terminate([record.pid] if is_alive(record) else [], grace_seconds)
        self._record_path(name).unlink(missing_ok=True)

    def is_running(self, name: str) -> bool:
        record = self.load(name)
        return record is not None and is_alive(record)

    def is_healthy(self, component: Component) -> bool:
        """Say whether the component runs with the wanted settings and answers."""
        record = self.load(component.name)
        same = record is not None and is_alive(record) and record.fingerprint == component.fingerprint
        return same and component.is_ready()

    def names(self) -> list[str]:
        """Every component that was started and not stopped since, running or not."""
        return sorted(path.stem for path in self._state.processes.glob("*.json"))

    def load(self, name: str) -> Record | None:
        """Read the record of a component."""
        path = self._record_path(name)
        if not path.exists():
            return None
        return Record(**json.loads(path.read_text()))

    def log_path(self, name: str) -> Path:
        return self._state.logs / f"{name}.log"

    def _last_words(self, name: str, what_happened: str) -> str:
        log = self.log_path(name)
        lines = log.read_text(errors="replace").splitlines()[-12:] if log.exists() else []
        return "\n".join(
            [f"{name} {what_happened}. The end of {log}:", *(f"    {line[:400]}" for line in lines)]
        )

    def _record_path(self, name: str) -> Path:
        return self._state.processes / f"{name}.json"


def is_alive(record: Record) -> bool:
    """Say whether exactly this process still runs."""
    return read_start_ticks(record.pid) == record.start_ticks


def read_start_ticks(pid: int) -> int | None:
    """Read when a process started, in ticks since boot; None when it is gone or a zombie."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command name, in parentheses, may itself hold spaces: fields are counted from its end.
    fields = stat.rpartition(")")[2].split()
    state, start_ticks = fields[0], int(fields[19])
    return None if state in "ZX" else start_ticks


def terminate(pids: list[int], grace_seconds: float) -> None:
    """End processes together: SIGTERM, and SIGKILL for those that are left after the grace."""
    alive = {pid: read_start_ticks(pid) for pid in pids}
    for signal_number, wait_seconds in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, 10.0)):
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal_number)
        deadline = time.monotonic() + wait_seconds
        while alive and time.monotonic() < deadline:
            alive = {pid: ticks for pid, ticks in alive.items() if ticks and read_start_ticks(pid) == ticks}
            if alive:
                time.sleep(POLL_SECONDS)
        if not alive:
            return
    raise DevClusterError(f"processes {sorted(alive)} do not end, not even by SIGKILL; look at them with ps")


def find_processes(program_names: frozenset[str], argument: str) -> list[int]:
    """Find processes of these programs whose command line holds the argument, recorded or not."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            command = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if Path(command[0]).name in program_names and any(argument in each for each in command[1:]):
                found.append(int(folder.name))
    return found
