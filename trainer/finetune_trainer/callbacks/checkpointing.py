"""Checkpoints of a run: when they are taken, and how a new attempt goes on from one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finetune_api.progress import CheckpointReport
from finetune_trainer.checkpoint_files import Split
from finetune_trainer.checkpoint_saver import OUTAGE_PATIENCE_SECONDS, CheckpointSaver, RunIdentity
from finetune_trainer.checkpoint_schedule import CheckpointSchedule, StepEnd
from finetune_trainer.checkpoints import CheckpointFacts
from finetune_trainer.early_stopping import EarlyStoppingRule
from finetune_trainer.gang import Gang
from finetune_trainer.heartbeat import Heart, Phase
from finetune_trainer.snapshot import LiveState, TrainerSnapshot, restore_random_state, restore_training
from finetune_trainer.step_figures import Saving, StepMeter

logger = logging.getLogger(__name__)


class CheckpointCallback(TrainerCallback):  # type: ignore[misc]
    """Takes a checkpoint when the schedule says so; waits for it where the run ends, and nowhere else."""

    def __init__(
        self,
        saver: CheckpointSaver,
        schedule: CheckpointSchedule,
        meter: StepMeter,
        heart: Heart,
        *,
        world_size: int,
        split: Split,
        identity: RunIdentity,
        rule: EarlyStoppingRule | None,
        on_commit: Callable[[CheckpointReport], None],
        on_wait: Callable[[], None] = lambda: None,
    ) -> None:
        self._saver = saver
        self._schedule = schedule
        self._meter = meter
        self._heart = heart
        self._world_size = world_size
        self._split = split
        self._identity = identity
        self._rule = rule
        self._on_commit = on_commit
        self._on_wait = on_wait
        self._announced = 0
        self._is_laid_out = False

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Save if it is time to."""
        figures, saver = self._meter.figures, self._saver
        if figures.save_failed:
            saver.agree_on_failure(figures.step)
        self._announce()
        if not self._is_laid_out:
            saver.lay_out()
            self._is_laid_out = True
        is_last = state.global_step >= state.max_steps or (
            self._rule is not None and self._rule.state.has_ended
        )
        end = StepEnd(
            figures.step,
            is_last=is_last,
            told_to_go=figures.stop_requested,
            waited_long=figures.save_requested,
            # One save at a time; but one that does not get there makes room for a newer state.
            may_save=figures.saving is not Saving.MOVING,
        )
        if self._schedule.decide(end):
            self._heart.enter(Phase.SAVING)
            saver.save(self._facts(), replaces=figures.saving is not Saving.NONE)
            self._schedule.note_saved()
            if is_last or figures.stop_requested:
                saver.wait(
                    f"checkpoint/{figures.step}/end",
                    patience_seconds=OUTAGE_PATIENCE_SECONDS,
                    meanwhile=self._on_wait,
                )
                self._announce()

    def _announce(self) -> None:
        committed = self._saver.committed()
        if committed is not None and committed.step > self._announced:
            self._announced = committed.step
            self._on_commit(committed)

    def _facts(self) -> CheckpointFacts:
        figures, evaluation, identity = self._meter.figures, self._meter.evaluation_of_step, self._identity
        return CheckpointFacts(
            step=figures.step,
            epoch=figures.epoch,
            loss=figures.loss,
            eval_loss=evaluation.loss if evaluation is not None else None,
            world_size=self._world_size,
            split=self._split,
            attempt=identity.attempt,
            incarnation=identity.incarnation,
            model_digest=identity.model_digest,
            dataset_digest=identity.dataset_digest,
            config_digest=identity.config_digest,
            versions=identity.versions,
        )


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
