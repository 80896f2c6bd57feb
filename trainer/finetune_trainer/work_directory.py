"""Where things stand in the pod's working folder: the launcher lays them out, the ranks find them. Torch-free."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from finetune_api import names
from finetune_api.base import ApiModel
from finetune_api.progress import CheckpointReport
from finetune_api.termination import TrainedFacts
from finetune_trainer.run_file import RunFile


class HandOver(ApiModel):
    """`attempt.json`: what the launcher settled before the ranks start."""

    schema_version: Literal[1] = 1
    run_file: RunFile
    incarnation: int
    resumed_from: CheckpointReport | None


class RankResult(ApiModel):
    """What a rank leaves behind for the launcher, which writes the one termination message."""

    rank: int
    exit_code: int
    message: str
    step: int | None = None
    ended: float
    trained: TrainedFacts | None = None


@dataclass(frozen=True)
class WorkDirectory:
    """The folders of a train or export pod."""

    root: Path

    @classmethod
    def from_environment(cls) -> WorkDirectory:
        """The folder the pod offers, /work unless the environment names another."""
        return cls(Path(os.environ.get(names.ENV_WORK_DIRECTORY, names.WORK_DIRECTORY)))

    @property
    def model(self) -> Path:
        """The base model's files."""
        return self.root / "model"

    @property
    def data(self) -> Path:
        """The prepared rows."""
        return self.root / "data"

    @property
    def resume(self) -> Path:
        """The checkpoint this attempt goes on from."""
        return self.root / "resume"

    @property
    def checkpoint(self) -> Path:
        """The checkpoint that is being written."""
        return self.root / "checkpoint"

    @property
    def trained(self) -> Path:
        """The result of training before it is uploaded, or after it was downloaded for export."""
        return self.root / "trained"

    @property
    def metrics(self) -> Path:
        """One line an optimizer step."""
        return self.root / "metrics.jsonl"

    @property
    def hand_over(self) -> Path:
        """The launcher's file for the ranks."""
        return self.root / "attempt.json"

    def rank_result(self, rank: int) -> Path:
        """A rank's file for the launcher."""
        return self.root / "results" / f"rank-{rank:05d}.json"
