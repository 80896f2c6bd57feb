"""Where things stand in the pod's working folder: the launcher lays them out, the ranks find them. Torch-free."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from finetune_api import names
from finetune_api.base import ApiModel
from finetune_api.termination import TrainedFacts
from finetune_trainer.checkpoints import CheckpointManifest
from finetune_trainer.run_file import RunFile
from finetune_trainer.run_metrics import METRICS_NAME
from finetune_trainer.spool import Spool

_POLL_SECONDS = 0.02


class StartingPoint(ApiModel):
    """What the first pod's launcher settled for the whole gang."""

    incarnation: int
    checkpoint: CheckpointManifest | None
    # Why newer checkpoints were not taken, a sentence each.
    passed_over: tuple[str, ...] = ()


class HandOver(ApiModel):
    """`attempt.json`: what the launcher settled before its ranks start. Only the first pod has a starting point."""

    schema_version: Literal[1] = 1
    run_file: RunFile
    start: StartingPoint | None


class RankResult(ApiModel):
    """What a rank leaves behind for the launcher, which writes the one termination message."""

    rank: int
    exit_code: int
    message: str
    step: int | None = None
    # Where this rank's error was another one's.
    failed_rank: int | None = None
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
    def earlier_adapter(self) -> Path:
        """The adapter of model.adapterSource, where the job names one."""
        return self.root / "earlier-adapter"

    @property
    def tracking(self) -> Path:
        """What trackers write."""
        return self.root / "tracking"

    @property
    def data(self) -> Path:
        """The prepared rows."""
        return self.root / "data"

    @property
    def resume(self) -> Path:
        """The checkpoint this attempt goes on from."""
        return self.root / "resume"

    @property
    def spool(self) -> Spool:
        """Where ranks and uploader meet."""
        return Spool(self._spool)

    @property
    def snapshots(self) -> Path:
        """One folder a step: the small files of the checkpoint that is being taken."""
        return self.root / "snapshots"

    @property
    def trained(self) -> Path:
        """The result of training before it is uploaded, or after it was downloaded for export."""
        return self.root / "trained"

    @property
    def metrics(self) -> Path:
        """One line an optimizer step."""
        return self.root / METRICS_NAME

    def rank_result(self, rank: int) -> Path:
        """A rank's file for the launcher."""
        return self._results / f"rank-{rank:05d}.json"

    def heartbeat(self, rank: int) -> Path:
        """Where a rank says what it is doing."""
        return self._results / f"heartbeat-{rank:05d}.json"

    def clear_messages(self) -> None:
        """Forget what an earlier container of this pod left for launcher and ranks."""
        self._hand_over.unlink(missing_ok=True)
        for folder in (self._results, self._spool, self.snapshots):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)

    def write_hand_over(self, hand_over: HandOver) -> None:
        """Tell the ranks that everything is there; the file appears complete."""
        unfinished = self._hand_over.with_suffix(".unfinished")
        unfinished.write_text(hand_over.model_dump_json(indent=2), encoding="utf-8")
        unfinished.replace(self._hand_over)

    def wait_for_hand_over(self) -> HandOver:
        """Wait until the launcher has brought everything. It ends the ranks if it cannot, so this needs no limit."""
        while not self._hand_over.exists():
            time.sleep(_POLL_SECONDS)
        return HandOver.model_validate_json(self._hand_over.read_bytes())

    @property
    def _hand_over(self) -> Path:
        return self.root / "attempt.json"

    @property
    def _spool(self) -> Path:
        return self.root / "spool"

    @property
    def _results(self) -> Path:
        return self.root / "results"
