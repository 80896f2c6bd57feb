"""Checkpoints of a run: when they are taken, what goes in, and how a new attempt goes on from one.

Rank 0 writes, uploads and commits while the others bring what they hold and wait: ranks of other pods share no folder
with it. The store is never touched between two collectives of a step, and one rank's error becomes the error of all.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finetune_api.layout import RunLayout
from finetune_api.progress import CheckpointReport
from finetune_trainer.checkpoint_schedule import CheckpointSchedule
from finetune_trainer.checkpoints import (
    CheckpointFacts,
    CheckpointManifest,
    prune_checkpoints,
    save_checkpoint,
)
from finetune_trainer.early_stopping import EarlyStoppingRule
from finetune_trainer.errors import StageError, StorageUnavailable
from finetune_trainer.gang import Gang
from finetune_trainer.heartbeat import Heart, Phase
from finetune_trainer.run_metrics import publish_metrics
from finetune_trainer.snapshot import (
    LiveState,
    TrainerSnapshot,
    encode_random_state,
    restore_random_state,
    restore_training,
    save_random_states,
    save_snapshot,
)
from finetune_trainer.state_files import save_state
from finetune_trainer.step_figures import StepFigures, StepMeter
from finetune_trainer.storage import ObjectStore
from finetune_trainer.tuned_model import TunedModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunIdentity:
    """What a checkpoint's manifest says about the run beside its figures."""

    attempt: int
    incarnation: int
    model_digest: str
    dataset_digest: str


@dataclass(frozen=True)
class CheckpointSink:
    """Commits the files of a folder to the run's place in the store, and the metrics beside them."""

    store: ObjectStore
    layout: RunLayout
    identity: RunIdentity
    keep_last: int

    def commit(
        self, directory: Path, metrics: Path, figures: StepFigures, world_size: int
    ) -> CheckpointManifest:
        """Upload, commit, then remove what the new checkpoint makes superfluous."""
        shutil.copyfile(metrics, directory / metrics.name)
        facts = CheckpointFacts(
            step=figures.step,
            epoch=figures.epoch,
            loss=figures.loss,
            world_size=world_size,
            attempt=self.identity.attempt,
            incarnation=self.identity.incarnation,
            model_digest=self.identity.model_digest,
            dataset_digest=self.identity.dataset_digest,
        )
        manifest = save_checkpoint(self.store, self.layout, directory, facts)
        publish_metrics(self.store, self.layout, metrics, self.identity.incarnation)
        prune_checkpoints(self.store, self.layout, self.keep_last, self.identity.incarnation)
        return manifest


class CheckpointCallback(TrainerCallback):  # type: ignore[misc]
    """Takes a checkpoint when the schedule says so, and when the run is told to go."""

    def __init__(
        self,
        sink: CheckpointSink,
        gang: Gang,
        meter: StepMeter,
        heart: Heart,
        tuned: TunedModel,
        live: Callable[[], LiveState],
        *,
        rule: EarlyStoppingRule | None,
        schedule: CheckpointSchedule,
        directory: Path,
        metrics: Path,
        on_commit: Callable[[CheckpointReport], None],
    ) -> None:
        self._sink = sink
        self._gang = gang
        self._meter = meter
        self._heart = heart
        self._tuned = tuned
        self._live = live
        self._rule = rule
        self._directory = directory
        self._metrics = metrics
        self._schedule = schedule
        self._on_commit = on_commit

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Save if it is time to."""
        figures = self._meter.figures
        is_done = state.global_step >= state.max_steps
        told_to_go = figures.stop_requested and not is_done
        if self._schedule.is_due(figures.step, waited_long=figures.save_requested, told_to_go=told_to_go):
            self._heart.enter(Phase.SAVING)
            self._save(figures, self._live())
            self._schedule.note_saved()

    def _save(self, figures: StepFigures, live: LiveState) -> None:
        gang, directory, topic = self._gang, self._directory, f"checkpoint/{figures.step}"
        random_states = gang.collect(f"{topic}/random", encode_random_state(gang))

        def save_files() -> None:
            if gang.is_leader:
                _empty(directory)
            save_state(directory, live.engine.state, is_leader=gang.is_leader)
            if gang.is_leader:
                save_random_states(directory, random_states)
                self._tuned.save_method_state(directory)
                save_snapshot(directory, figures.step, live, gang, self._rule.state if self._rule else None)

        gang.do_together(f"{topic}/files", on_local_disk(save_files))
        gang.let_leader(f"{topic}/commit", lambda: self._commit(figures))

    def _commit(self, figures: StepFigures) -> None:
        manifest = self._sink.commit(self._directory, self._metrics, figures, self._gang.world_size)
        uri = self._sink.layout.checkpoint_uri(figures.step)
        logger.info("checkpoint of step %d committed at %s", figures.step, uri)
        self._on_commit(CheckpointReport(step=figures.step, uri=uri, time=manifest.created))


class ResumeCallback(TrainerCallback):  # type: ignore[misc]
    """Puts optimizer, schedule, random numbers and the step count where the checkpoint had them, or starts afresh."""

    def __init__(
        self,
        directory: Path,
        snapshot: TrainerSnapshot | None,
        gang: Gang,
        live: Callable[[], LiveState],
        *,
        seed: int,
        rule: EarlyStoppingRule | None,
    ) -> None:
        self._directory = directory
        self._snapshot = snapshot
        self._gang = gang
        self._live = live
        self._seed = seed
        self._rule = rule

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Runs when optimizer and schedule exist and before the first step."""
        # The adapter began equal on every rank; dropout must not be.
        torch.manual_seed(self._seed + self._gang.rank)
        if self._snapshot is None:
            return
        restore_training(self._directory, self._snapshot, self._live())
        if self._rule is not None and self._snapshot.early_stopping is not None:
            self._rule.state = self._snapshot.early_stopping
        state.global_step = self._snapshot.step
        if not restore_random_state(self._directory, self._gang, self._snapshot):
            logger.info(
                "random numbers start again from the seed: the checkpoint was taken by %d %s ranks, this attempt has "
                "%d on %s",
                self._snapshot.world_size,
                self._snapshot.device_type,
                self._gang.world_size,
                self._gang.device.type,
            )
        _warn_if_inexact(self._snapshot)


def on_local_disk(action: Callable[[], None]) -> Callable[[], None]:
    """Say what a full or broken disk means for the run."""

    def guarded() -> None:
        try:
            action()
        except OSError as error:
            raise _disk_error(error) from error

    return guarded


def _disk_error(error: OSError) -> StageError:
    return StorageUnavailable(
        f"The checkpoint could not be written to the pod's own disk: {error}. If the disk is full, raise "
        "spec.resources.ephemeralStorage."
    )


def _empty(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)


def _warn_if_inexact(snapshot: TrainerSnapshot) -> None:
    if snapshot.threads != torch.get_num_threads():
        logger.info(
            "the checkpoint was taken with %d threads, this attempt has %d: losses may differ in the last digits",
            snapshot.threads,
            torch.get_num_threads(),
        )
    if snapshot.torch_version != torch.__version__:
        logger.info(
            "the checkpoint was taken with torch %s, this is %s: losses may differ in the last digits",
            snapshot.torch_version,
            torch.__version__,
        )
