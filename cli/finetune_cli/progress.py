"""Shows a download's progress on standard error: a bar for people, one line for logs."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


class RichReport:
    """A pull.Report."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True))
        self._progress = Progress(
            *columns, TransferSpeedColumn(), TimeRemainingColumn(), console=self._console, transient=True
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begin(self, title: str, total_bytes: int, done_bytes: int) -> None:
        """Start the bar; without a terminal, write one line."""
        went_on = f", {done_bytes / 1e6:.1f} MB of them here already" if done_bytes else ""
        if not self._console.is_terminal:
            self._console.print(f"{title}: {total_bytes / 1e6:.1f} MB{went_on}", highlight=False)
            return
        self._progress.start()
        self._task = self._progress.add_task(title, total=total_bytes, completed=done_bytes)

    def advance(self, size_bytes: int) -> None:
        """Move the bar."""
        if self._task is not None:
            self._progress.advance(self._task, size_bytes)
