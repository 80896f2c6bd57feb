"""Between the ranks of a pod and its uploader: the one save that is under way, and what has become of it. Torch-free.

The first rank of the pod places an order when all ranks have filled their buffers, and withdraws it before they fill
them again. Who uploads looks after reading the buffers whether the order still stands: only then has it read one state.
All files appear complete; either side may be killed at any moment, and be started again.
"""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path

from pydantic import ValidationError

from finetune_api.base import ApiModel
from finetune_api.progress import CheckpointReport
from finetune_trainer.checkpoints import CheckpointFacts


class SaveOrder(ApiModel):
    """A state to save: files by the names that they have in the checkpoint, and their paths in this pod."""

    number: int
    files: dict[str, str]
    facts: CheckpointFacts
    node: int
    nodes: int
    keep_last: int
    keep_best: int
    # time.time() at the end of the step.
    step_ended: float


class UploadState(StrEnum):
    """What the uploader is doing."""

    IDLE = "idle"
    UPLOADING = "uploading"
    # The store does not answer; it tries again and again.
    WAITING = "waiting"
    FAILED = "failed"


class UploadReport(ApiModel):
    """What became of the newest order. In pods other than the first, IDLE says that this pod's part is uploaded."""

    order: int = 0
    state: UploadState = UploadState.IDLE
    # WAITING and FAILED: why, and the name of the error's class.
    message: str = ""
    error: str = ""
    # time.time() since when the store does not answer.
    waiting_since: float | None = None
    committed: CheckpointReport | None = None


class Spool:
    """The folder of orders and reports."""

    def __init__(self, directory: Path) -> None:
        self._order = directory / "order.json"
        self._report = directory / "report.json"
        self._closed = directory / "closed"

    # --- the ranks' side -------------------------------------------------------------------------------------

    def place(self, order: SaveOrder) -> None:
        """Ask for a state to be saved."""
        _write(self._order, order)

    def withdraw(self) -> None:
        """Say that the buffers are about to change."""
        self._order.unlink(missing_ok=True)

    def report(self) -> UploadReport:
        """What has become of the newest order that the uploader knows of."""
        try:
            return UploadReport.model_validate_json(self._report.read_bytes())
        except (OSError, ValidationError):
            return UploadReport()

    # --- the uploader's side ---------------------------------------------------------------------------------

    def order(self) -> SaveOrder | None:
        """The state to save; None where there is none."""
        try:
            return SaveOrder.model_validate_json(self._order.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def write_report(self, report: UploadReport) -> None:
        """Say what has become of it."""
        _write(self._report, report)

    # --- the launcher's side ---------------------------------------------------------------------------------

    def close(self) -> None:
        """No further order will come."""
        self._closed.touch()

    @property
    def is_closed(self) -> bool:
        """Whether the uploader may end once it has nothing to do."""
        return self._closed.exists()


def _write(path: Path, content: ApiModel) -> None:
    # Renamed into place, so that nobody reads half of it.
    unfinished = path.with_suffix(f".{os.getpid()}")
    unfinished.write_text(content.model_dump_json(), encoding="utf-8")
    unfinished.replace(path)
