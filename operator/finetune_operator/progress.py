"""A progress report folded into status: figures, the checkpoint, what really runs; and how often that is written."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from finetune_api.progress import CheckpointReport, ProgressReport, TrainingReport
from finetune_api.status import CheckpointStatus, ConditionType, Effective, FineTuneJobStatus, Progress
from finetune_api.termination import TrainedFacts
from finetune_operator.notices import list_noticed
from finetune_operator.observation import ReceivedReport
from finetune_operator.times import format_time, parse_time, seconds_until

# Beyond it JSON readers disagree.
MAX_COUNT = 2**53


def fold_report(status: FineTuneJobStatus, received: ReceivedReport) -> FineTuneJobStatus:
    """Status with what the train pod reported. The attempt's own step is part of it."""
    training, time = received.report.finetune, format_time(received.received)
    reached = training.step if training else _plain_step(received.report)
    progress = (
        _from_training_report(training, received.report, time)
        if training
        else _from_plain_report(status.progress, received.report, time)
    )
    return status.model_copy(
        update={
            "progress": progress,
            "effective": _effective(training) or status.effective,
            "checkpoint": _checkpoint(status.checkpoint, training, received.received),
            "attempts": [
                attempt.model_copy(update={"step": reached})
                if attempt.job_uid == received.job_uid and reached is not None
                else attempt
                for attempt in status.attempts
            ],
        }
    )


def _from_training_report(training: TrainingReport, report: ProgressReport, time: str) -> Progress:
    remaining = report.trainer_status.estimated_remaining_seconds
    return Progress(
        step=training.step,
        total_steps=training.total_steps,
        epoch=training.epoch,
        percent=_percent(training.step, training.total_steps),
        loss=training.loss,
        eval_loss=training.eval_loss,
        learning_rate=training.learning_rate,
        tokens_per_second=training.tokens_per_second,
        eta_seconds=remaining,
        peak_memory_bytes=training.peak_memory_bytes,
        last_update_time=time,
    )


def _from_plain_report(known: Progress | None, report: ProgressReport, time: str) -> Progress:
    """The figures of transformers' KubeflowCallback: all are text, and each report has only some of them."""
    known = known or Progress(step=0, total_steps=0)
    told = _plain_figures(report)
    figures: dict[str, object] = {
        "step": _plain_step(report),
        "total_steps": _first(_count, told, "total_steps"),
        "epoch": _first(_number, told, "current_epoch", "epoch"),
        "loss": _first(_number, told, "loss"),
        "eval_loss": _first(_number, told, "eval_loss"),
        "learning_rate": _first(_number, told, "learning_rate"),
        "percent": report.trainer_status.progress_percentage,
    }
    return known.model_copy(
        update={
            **{name: value for name, value in figures.items() if value is not None},
            "eta_seconds": report.trainer_status.estimated_remaining_seconds,
            "last_update_time": time,
        }
    )


def _plain_step(report: ProgressReport) -> int | None:
    """The step that the attempt itself says it has reached: the one in status may be that of an earlier attempt."""
    told = _plain_figures(report)
    steps = (_count(told.get(name)) for name in ("current_step", "step"))
    return next((step for step in steps if step is not None), None)


def _plain_figures(report: ProgressReport) -> dict[str, str]:
    return {metric.name: metric.value for metric in report.trainer_status.metrics}


def _first(read: Callable[[str | None], float | None], told: Mapping[str, str], *names: str) -> float | None:
    """The first of these figures that is there and readable."""
    return next((value for name in names if (value := read(told.get(name))) is not None), None)


def _count(text: str | None) -> int | None:
    """A whole number that status can hold."""
    number = _number(text)
    return int(number) if number is not None and number.is_integer() and 0 <= number < MAX_COUNT else None


def _number(text: str | None) -> float | None:
    """A finite number, or None: NaN never reaches status."""
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _percent(step: int, total_steps: int) -> int | None:
    return min(100, step * 100 // total_steps) if total_steps else None


def _effective(training: TrainingReport | None) -> Effective | None:
    told = training.effective if training else None
    return Effective.model_validate(told.model_dump()) if told else None


def _checkpoint(
    known: CheckpointStatus | None, training: TrainingReport | None, received: datetime
) -> CheckpointStatus | None:
    """The newest checkpoint, and with it what a stop needs, which stays until it is measured anew."""
    newest = _reported(training.checkpoint, known, received) if training and training.checkpoint else known
    if newest is None:
        return None
    measured = training.stop_seconds if training else None
    stop_seconds = measured if measured is not None else known.stop_seconds if known else None
    return newest.model_copy(update={"stop_seconds": stop_seconds})


def _reported(told: CheckpointReport, known: CheckpointStatus | None, received: datetime) -> CheckpointStatus:
    """As the report says; of one that is known already, what was measured stays where the report does not say."""
    try:
        committed = parse_time(told.time)
    except ValueError:
        committed = (
            received  # The pod's word is untrusted, and a malformed time would make the whole status invalid.
        )
    newest = CheckpointStatus(
        step=told.step,
        uri=told.uri,
        time=format_time(committed),
        size_bytes=told.size_bytes,
        save_seconds=told.save_seconds,
    )
    if known is None or known.uri != told.uri:
        return newest
    return known.model_copy(update=newest.model_dump(exclude_none=True, by_alias=False))


def finish_progress(progress: Progress | None, trained: TrainedFacts | None, time: str) -> Progress | None:
    """The last word about training, also where no report arrived."""
    if trained is None:
        return progress.model_copy(update={"eta_seconds": None}) if progress else None
    known = progress or Progress(step=trained.step, total_steps=trained.step)
    total = known.total_steps or trained.step
    return known.model_copy(
        update={
            "step": trained.step,
            "total_steps": total,
            "percent": _percent(trained.step, total),
            "loss": trained.loss if trained.loss is not None else known.loss,
            "eta_seconds": None,
            "last_update_time": time,
        }
    )


def differs_in_progress_only(old: FineTuneJobStatus, new: FineTuneJobStatus) -> bool:
    """Whether nothing but figures moved; such a write can wait. So can the end of a notice, and its wording."""
    noticed_before = frozenset(list_noticed(old))
    if not noticed_before.issuperset(list_noticed(new)):
        return False
    if noticed_before:
        old, new = _without_notices(old), _without_notices(new)
    return _without_progress(old) == _without_progress(new)


def _without_notices(status: FineTuneJobStatus) -> FineTuneJobStatus:
    conditions = [
        each.model_copy(update={"message": ""}) if each.type == ConditionType.RUNNING else each
        for each in status.conditions
    ]
    return status.model_copy(update={"message": None, "conditions": conditions})


def _without_progress(status: FineTuneJobStatus) -> FineTuneJobStatus:
    return status.model_copy(
        update={
            "progress": None,
            "effective": None,
            "checkpoint": None,
            "display": None,
            "attempts": [attempt.model_copy(update={"step": None}) for attempt in status.attempts],
        }
    )


def seconds_until_due(status: FineTuneJobStatus, interval: timedelta, now: datetime) -> float:
    """Seconds until figures may be written again; the first ones may at once."""
    written = status.progress.last_update_time if status.progress else None
    # The time stands there in whole seconds: up to one is missing.
    return seconds_until(parse_time(written) + interval + timedelta(seconds=1), now) if written else 0.0
