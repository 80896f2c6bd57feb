"""The data report of one run: what the prepared data mean for it, written where people and programs find it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from finetune_api.job_file import JobFile
from finetune_api.layout import RunLayout
from finetune_api.spec import FineTuneJobSpec, Parallelism, StopAfter, Training
from finetune_trainer.data.batches import order_rows
from finetune_trainer.data.report import (
    DataReport,
    add_forecast,
    add_warnings,
    describe_sample,
    describe_summary,
    forecast_run,
    render_html,
)
from finetune_trainer.data.row_sizes import RowSizes, load_sizes
from finetune_trainer.micro_batch_bound import decide_micro_batch_bound
from finetune_trainer.steps import StepPlan

if TYPE_CHECKING:  # the preview has no store
    from finetune_trainer.storage import ObjectStore

logger = logging.getLogger(__name__)


def complete_report(
    store: ObjectStore, uri: str, report: DataReport, job: JobFile, plan: StepPlan
) -> DataReport:
    """Add what the data mean for this run: its steps, and how much of a batch would be padding."""
    spec = job.spec
    report = add_warnings(report, _not_done_yet(spec))
    sizes = load_sizes(store, uri)
    return report_with_forecast(report, sizes, plan, spec.training, spec.parallelism, job.memory_backoff)


def report_with_forecast(
    report: DataReport,
    sizes: RowSizes,
    plan: StepPlan,
    training: Training,
    parallelism: Parallelism,
    memory_backoff: int = 0,
) -> DataReport:
    """Add the forecast of a run with these settings over rows of these sizes."""
    gpus = parallelism.gpus_per_node
    bound = decide_micro_batch_bound(training, "cuda" if gpus else "cpu", memory_backoff)
    forecast = forecast_run(
        sizes.lengths,
        order_rows(sizes.weights, training.global_batch_size, training.seed),
        total_steps=plan.total_steps,
        micro_batch_tokens=bound.tokens,
        world_size=parallelism.nodes * max(1, gpus),
    )
    return add_forecast(report, forecast)


def _not_done_yet(spec: FineTuneJobSpec) -> tuple[str, ...]:
    """What is prepared, and what the stages that follow do not look at in this release."""
    if spec.stop_after is StopAfter.PREPARE or spec.dataset.test is None:
        return ()
    return (
        "The rows of dataset.test are kept out of training and stand in the prepared data; this release does not "
        "measure the model on them.",
    )


def save_report(store: ObjectStore, layout: RunLayout, report: DataReport) -> None:
    """Leave the report in the run's folder, for programs and for people."""
    store.write_bytes(layout.data_report_json_uri, (report.model_dump_json(indent=2) + "\n").encode())
    store.write_bytes(layout.data_report_uri, render_html(report, layout.run_id).encode())


def log_report(report: DataReport) -> None:
    """Say what was found, with the first rows that were left out and one that was not."""
    logger.info(describe_summary(report))
    logger.info("learned tokens: %s", report.mask_source)
    for dropped in report.dropped:
        for example in dropped.first[:5]:
            logger.info("left out (%s): %s: %s", dropped.reason, example.where, example.why)
    for warning in report.warnings:
        logger.warning(warning)
    for sample in report.samples[:1]:
        logger.info("one row, learned parts between « »: %s", describe_sample(sample))
