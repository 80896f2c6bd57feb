"""What a control plane and an S3 server share: a state folder, an address, processes, a life as a context."""

import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Self

from devcluster.console import QUIET, Console
from devcluster.processes import ProcessTable
from devcluster.state import StateDirectory


class Site(ABC):
    """Processes in a state folder; as a context manager they are gone, with the folder, at the end."""

    def __init__(self, state_dir: Path, *, address: str = "127.0.0.1", console: Console = QUIET) -> None:
        self.state = StateDirectory(state_dir.resolve())
        self._address = address
        self._console = console
        self.processes = ProcessTable(self.state)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self.state.root)

    @abstractmethod
    def start(self) -> None:
        """Start what does not run yet and wait until it can be used."""

    @abstractmethod
    def stop(self) -> None:
        """Stop every process; the data stays."""
