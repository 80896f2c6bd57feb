"""The train stage of one rank, top to bottom. The launcher has brought model, rows and checkpoint onto the disk."""

from __future__ import annotations

import logging

from finetune_api.job_file import JobFile
from finetune_api.termination import TrainedFacts
from finetune_trainer.attempt import Attempt, join_attempt
from finetune_trainer.data.batches import order_rows
from finetune_trainer.data.prepared import PreparedRows, split_file_name
from finetune_trainer.data.rows import Split
from finetune_trainer.data.step_batches import StepBatches
from finetune_trainer.gang import leave_gang
from finetune_trainer.model import packs_rows
from finetune_trainer.model_loading import ModelRecipe, load_tuned_model
from finetune_trainer.stop_request import StopRequest
from finetune_trainer.training_run import TrainingRun
from finetune_trainer.tuned_model import TunedModel
from finetune_trainer.work_directory import WorkDirectory

logger = logging.getLogger(__name__)


def train(job: JobFile, work: WorkDirectory, stop: StopRequest) -> TrainedFacts:
    """Train from the launcher's checkpoint to the end of the run, and commit the result. Raises StageErrors."""
    attempt = join_attempt(job, work)
    tuned = load_model(attempt)
    run = TrainingRun(attempt, tuned, plan_batches(attempt))
    try:
        if run.has_steps_left:
            run.take_steps(stop)
        facts = run.commit_result()
    finally:
        run.close()
    leave_gang(attempt.gang)
    return facts


# --- what is trained, and on what ------------------------------------------------------------------------------


def load_model(attempt: Attempt) -> TunedModel:
    """Load the base and add what is trained."""
    spec, work, facts = attempt.job.spec, attempt.work, attempt.run_file
    tuned = load_tuned_model(
        ModelRecipe(
            spec=spec,
            facts=facts.method,
            base=work.model,
            plan=attempt.plan,
            precision=attempt.precision,
            device=attempt.gang.device,
            total_steps=facts.total_steps,
            earlier_adapter=work.earlier_adapter if facts.adapter is not None else None,
            checkpoint=work.resume if attempt.snapshot is not None else None,
            is_memory_tight=attempt.is_memory_tight,
            is_finished=attempt.snapshot is not None and attempt.snapshot.step >= facts.total_steps,
        )
    )
    trained, total = tuned.count_parameters()
    logger.info(
        "training %s of %s parameters (%s%s), computing in %s on %s",
        f"{trained:,}",
        f"{total:,}",
        spec.method.type.value,
        f" on {', '.join(facts.method.target_modules)}" if facts.method.target_modules else "",
        attempt.precision.name,
        attempt.gang.device,
    )
    return tuned


def plan_batches(attempt: Attempt) -> StepBatches:
    """Lay out what is left of the run."""
    spec, gang, bound = attempt.job.spec, attempt.gang, attempt.micro_batch_bound
    rows = PreparedRows(attempt.work.data / split_file_name(Split.TRAIN))
    if bound.halvings:
        logger.info("%s, because earlier attempts ran out of memory", bound.describe())
    return StepBatches(
        rows=rows,
        order=order_rows(rows.weights, spec.training.global_batch_size, spec.training.seed),
        first_step=attempt.snapshot.step if attempt.snapshot else 0,
        total_steps=attempt.run_file.total_steps,
        rank=gang.rank,
        world_size=gang.world_size,
        micro_batch_tokens=bound.tokens,
        task=spec.task,
        is_packed=packs_rows(spec.method, spec.training.packing),
    )
