"""Facts → `status`: phase, reason, message, conditions and the texts of kubectl's columns, from where the job stands.

Computed in memory from the old status and the standing; the controller writes it once, if it differs.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from finetune_api.layout import RunLayout
from finetune_api.names import Stage, child_name
from finetune_api.reasons import Reason
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import (
    Attempt,
    AttemptOutcome,
    ConditionStatus,
    ConditionType,
    Display,
    FineTuneJobStatus,
    Outputs,
    Phase,
    Progress,
    Provenance,
)
from finetune_api.termination import TerminationMessage
from finetune_operator import conditions
from finetune_operator.conditions import Verdict
from finetune_operator.job_resource import FineTuneJob
from finetune_operator.notices import say_reasons
from finetune_operator.progress import finish_progress
from finetune_operator.standing import (
    Active,
    Failed,
    Restarting,
    Standing,
    Starting,
    Stopping,
    Succeeded,
    Suspended,
)
from finetune_operator.times import format_duration, format_time

_PHASE_OF_STAGE = {Stage.PREPARE: Phase.PREPARING, Stage.TRAIN: Phase.TRAINING, Stage.EXPORT: Phase.EXPORTING}
_REASON_OF_STAGE = {
    Stage.PREPARE: Reason.PREPARING,
    Stage.TRAIN: Reason.TRAINING,
    Stage.EXPORT: Reason.EXPORTING,
}
_DOING = {
    Stage.PREPARE: "checks and tokenises the data",
    Stage.TRAIN: "trains",
    Stage.EXPORT: "merges and verifies the model",
}
# What people call an attempt that is being stopped for this reason.
_STOPPING = {Reason.SUSPENDED: Reason.SUSPENDING}
_TRUE, _FALSE = ConditionStatus.TRUE, ConditionStatus.FALSE


def compute_status(
    job: FineTuneJob,
    base: FineTuneJobStatus,
    standing: Standing,
    done: Collection[Stage],
    now: datetime,
) -> FineTuneJobStatus:
    """Status of a job. `base` carries the history (attempts, figures, outputs), already brought up to date."""
    phase, reason, message = _summarise(job, base, standing)
    finished = isinstance(standing, Succeeded | Failed)
    verdicts = _judge(job, standing, done, base, reason, message)
    progress = (
        finish_progress(base.progress, None, format_time(now))
        if phase is not Phase.TRAINING
        else base.progress
    )
    return base.model_copy(
        update={
            "observed_generation": job.generation,
            # Raised on a job that has not failed, it asks for nothing, also not later.
            "observed_retry": max(base.observed_retry, job.spec.retry if job.spec else 0),
            "conditions": conditions.set_conditions(
                base.conditions, verdicts, generation=job.generation, now=now
            ),
            "phase": phase,
            "reason": reason,
            "message": message,
            "start_time": base.start_time or (base.attempts[0].started if base.attempts else None),
            "completion_time": (base.completion_time or format_time(now)) if finished else None,
            "waiting_since": _waiting_since(base, standing, now),
            "progress": progress,
            "display": _display(job.spec, progress, phase),
            "outputs": _outputs(job, base),
        }
    )


def _waiting_since(base: FineTuneJobStatus, standing: Standing, now: datetime) -> str | None:
    """Since when a pod ought to start and does not; never while the job is held back by its user or a queue.

    The moment that every start takes has no explanation yet and is not worth a write.
    """
    is_refused = isinstance(standing, Starting) and standing.refusal is not None
    is_slow = isinstance(standing, Active) and standing.explanation is not None and not standing.is_queued
    return (base.waiting_since or format_time(now)) if is_refused or is_slow else None


def _outputs(job: FineTuneJob, base: FineTuneJobStatus) -> Outputs:
    """Where the run stands in the store; with the store itself where the spec does not say."""
    if job.spec is None or base.outputs.run_uri is not None:
        return base.outputs
    store = job.spec.output.store if job.has_default_output else None
    return base.outputs.model_copy(update={"run_uri": _layout(job).run_uri, "store": store})


def reject_spec(job: FineTuneJob, problem: str, now: datetime) -> FineTuneJobStatus:
    """Status of a job whose spec does not parse: it fails, and goes on once the spec is corrected."""
    refused = Verdict(ConditionType.ACCEPTED, _FALSE, Reason.INVALID_SPEC, problem)
    ended = (
        Verdict(ConditionType.SUCCEEDED, _FALSE, Reason.INVALID_SPEC, problem),
        Verdict(ConditionType.FAILED, _TRUE, Reason.INVALID_SPEC, problem),
        Verdict(ConditionType.FINISHED, _TRUE, Reason.INVALID_SPEC, problem),
    )
    return job.status.model_copy(
        update={
            "observed_generation": job.generation,
            "conditions": conditions.set_conditions(
                job.status.conditions, (refused, *ended), generation=job.generation, now=now
            ),
            "phase": Phase.FAILED,
            "reason": Reason.INVALID_SPEC.value,
            "message": problem,
            "completion_time": job.status.completion_time or format_time(now),
        }
    )


def is_finished(status: FineTuneJobStatus) -> bool:
    """Whether the job has ended, either way."""
    return conditions.is_true(status.conditions, ConditionType.FINISHED)


def was_rejected(status: FineTuneJobStatus) -> bool:
    """Whether it ended only because its spec did not parse."""
    failed = conditions.find_condition(status.conditions, ConditionType.FAILED)
    return failed is not None and failed.reason == Reason.INVALID_SPEC and not status.attempts


def fold_termination(
    job: FineTuneJob, status: FineTuneJobStatus, message: TerminationMessage, now: datetime
) -> FineTuneJobStatus:
    """Status with what a stage left behind when it succeeded: provenance, final figures, outputs."""
    update: dict[str, object] = {}
    if message.prepared is not None:
        facts = message.prepared
        update["provenance"] = Provenance(
            model_revision=facts.model_revision,
            model_digest=facts.model_digest,
            dataset_digest=facts.dataset_digest,
            rows_used=facts.rows_used,
            rows_dropped=facts.rows_dropped,
            trainer_image=status.provenance.trainer_image,
        )
        update["progress"] = Progress(step=0, total_steps=facts.total_steps, percent=0)
        update["outputs"] = status.outputs.model_copy(update={"report_uri": _layout(job).data_report_uri})
    if message.trained is not None:
        update["progress"] = finish_progress(status.progress, message.trained, format_time(now))
    if message.exported is not None:
        exported = message.exported
        update["outputs"] = status.outputs.model_copy(
            update={
                "adapter_uri": exported.adapter_uri,
                "merged_uri": exported.merged_uri,
                "manifest_digest": exported.manifest_digest,
                "merge_max_logit_difference": exported.merge_max_logit_difference,
            }
        )
    return status.model_copy(update=update)


def _layout(job: FineTuneJob) -> RunLayout:
    assert job.spec is not None
    return RunLayout(output_uri=job.spec.output.uri, name=job.name, uid=job.uid)


def _summarise(job: FineTuneJob, base: FineTuneJobStatus, standing: Standing) -> tuple[Phase, str, str]:
    match standing:
        case Succeeded(after_prepare_only=True):
            # A pod that left no message has told of no report.
            uri = base.outputs.report_uri
            report = (
                f"The report stands at {uri}; spec.stopAfter is Prepare."
                if uri
                else "spec.stopAfter is Prepare."
            )
            return Phase.SUCCEEDED, Reason.STOPPED_AFTER_PREPARE, f"{_prepared(base)} {report}".strip()
        case Suspended():
            return Phase.SUSPENDED, Reason.SUSPENDED, _say_suspended(base)
        case Stopping():
            return _summarise_stopping(job, standing)
        case Succeeded():
            return Phase.SUCCEEDED, Reason.SUCCEEDED, _say_where(base.outputs)
        case Failed(reason, message):
            return Phase.FAILED, reason.value, message
        case Restarting(attempt, at):
            return (
                Phase.RESTARTING,
                attempt.reason or Reason.RESTARTING,
                (
                    f"Attempt {attempt.number} of {attempt.stage} ended: {attempt.message} {attempt.decision or ''} "
                    f"Attempt {attempt.number + 1} starts at {format_time(at)}."
                ).replace("  ", " "),
            )
        case Starting(stage, number, refusal):
            reason = refusal.reason if refusal else Reason.NOT_STARTED
            return _phase_before_start(stage, number), reason, refusal.message if refusal else ""
        case Active():
            return _summarise_active(job, standing)


def _say_where(outputs: Outputs) -> str:
    if outputs.merged_uri:
        return f"The model stands at {outputs.merged_uri}."
    if outputs.adapter_uri:
        return f"The adapter stands at {outputs.adapter_uri}; it is used with its base model."
    return "All stages are done."


def _say_suspended(base: FineTuneJobStatus) -> str:
    where = f" It goes on from the checkpoint of step {base.checkpoint.step}." if base.checkpoint else ""
    return f"No pod runs until spec.suspend is false.{where}"


def _summarise_stopping(job: FineTuneJob, standing: Stopping) -> tuple[Phase, str, str]:
    """The phase says what still runs, never what is only wished for."""
    stage, number = standing.attempt.stage, standing.attempt.number
    phase = _PHASE_OF_STAGE[stage] if standing.gang.has_started else _phase_before_start(stage, number)
    reason = (
        _STOPPING.get(Reason(standing.attempt.reason), Reason.STOPPING) if standing.attempt.reason else None
    )
    why = standing.attempt.message or "A node no longer answers."
    child = child_name(job.name, stage, number)
    return phase, reason or Reason.STOPPING, f"{why} The pods of Job {child} were told to end."


def _summarise_active(job: FineTuneJob, standing: Active) -> tuple[Phase, str, str]:
    stage, number = standing.attempt.stage, standing.attempt.number
    child = child_name(job.name, stage, number)
    if standing.explanation is not None:
        return _phase_of_waiting(standing), _reason_of_waiting(standing), standing.explanation.message
    if stage is not Stage.EXPORT and not standing.has_started:
        reason = Reason.QUEUED if stage is Stage.TRAIN else Reason.WAITING_FOR_POD
        return _phase_before_start(stage, number), reason, f"Job {child} waits for its pod to start."
    told = standing.noticed.message or f"Job {child} {_DOING[stage]}."
    return _PHASE_OF_STAGE[stage], _REASON_OF_STAGE[stage], told


def _phase_of_waiting(standing: Active) -> Phase:
    """A queued Job is Queued whatever its attempt's number; evicted pods train until they have gone."""
    stage = standing.attempt.stage
    if stage is Stage.TRAIN and standing.is_queued:
        return Phase.TRAINING if standing.has_started else Phase.QUEUED
    return _phase_before_start(stage, standing.attempt.number)


def _reason_of_waiting(standing: Active) -> Reason:
    """An attempt that waits in a queue again was evicted from it."""
    assert standing.explanation is not None
    reason = standing.explanation.reason
    was_evicted = standing.attempt.node is not None and standing.gang.job is not None
    return Reason.KUEUE_EVICTED if reason is Reason.QUEUED and was_evicted else reason


def _phase_before_start(stage: Stage, number: int) -> Phase:
    if stage is Stage.EXPORT:
        return Phase.EXPORTING
    if number > 1:
        return Phase.RESTARTING
    return Phase.PENDING if stage is Stage.PREPARE else Phase.QUEUED


def _judge(
    job: FineTuneJob,
    standing: Standing,
    done: Collection[Stage],
    base: FineTuneJobStatus,
    reason: str,
    message: str,
) -> tuple[Verdict, ...]:
    succeeded, failed = isinstance(standing, Succeeded), isinstance(standing, Failed)
    end_reason = reason if succeeded or failed else Reason.IN_PROGRESS
    end_message = message if succeeded or failed else ""
    return (
        Verdict(ConditionType.ACCEPTED, _TRUE, Reason.ACCEPTED, "The spec is valid."),
        _judge_stage(ConditionType.PREPARED, Stage.PREPARE, Reason.PREPARED, standing, done, _prepared(base)),
        _judge_running(standing, done),
        _judge_suspended(job, standing),
        _judge_stage(ConditionType.EXPORTED, Stage.EXPORT, Reason.EXPORTED, standing, done, _exported(base)),
        Verdict(ConditionType.SUCCEEDED, _status(succeeded), end_reason, end_message),
        Verdict(ConditionType.FAILED, _status(failed), end_reason, end_message),
        Verdict(ConditionType.FINISHED, _status(succeeded or failed), end_reason, end_message),
    )


def _judge_stage(
    kind: ConditionType, stage: Stage, reached: Reason, standing: Standing, done: Collection[Stage], told: str
) -> Verdict:
    if stage in done:
        return Verdict(kind, _TRUE, reached, told)
    if isinstance(standing, Failed):
        return Verdict(kind, _FALSE, standing.reason)
    under_way = isinstance(standing, Active | Stopping | Restarting) and standing.attempt.stage is stage
    return Verdict(kind, _FALSE, _REASON_OF_STAGE[stage] if under_way else Reason.NOT_STARTED)


def _judge_running(standing: Standing, done: Collection[Stage]) -> Verdict:
    if Stage.TRAIN in done:
        return Verdict(ConditionType.RUNNING, _FALSE, Reason.TRAINED, "Training has ended.")
    if isinstance(standing, Failed):
        return Verdict(ConditionType.RUNNING, _FALSE, standing.reason)
    if isinstance(standing, Restarting) and standing.attempt.stage is Stage.TRAIN:
        return Verdict(ConditionType.RUNNING, _FALSE, Reason.RESTARTING)
    if isinstance(standing, Active | Stopping) and standing.attempt.stage is Stage.TRAIN:
        runs = standing.gang.has_started
        reason = Reason.TRAINING if runs else Reason.QUEUED
        return Verdict(ConditionType.RUNNING, _status(runs), reason, say_reasons(standing.noticed))
    if isinstance(standing, Suspended):
        return Verdict(ConditionType.RUNNING, _FALSE, Reason.SUSPENDED)
    return Verdict(ConditionType.RUNNING, _FALSE, Reason.NOT_STARTED)


def _judge_suspended(job: FineTuneJob, standing: Standing) -> Verdict:
    """True only when nothing runs any more: a job that still saves its checkpoint is not suspended yet."""
    if isinstance(standing, Suspended):
        return Verdict(ConditionType.SUSPENDED, _TRUE, Reason.SUSPENDED, "No pod of the job runs.")
    is_wished = job.spec is not None and job.spec.suspend and not isinstance(standing, Succeeded | Failed)
    return Verdict(ConditionType.SUSPENDED, _FALSE, Reason.SUSPENDING if is_wished else Reason.NOT_SUSPENDED)


def _status(value: bool) -> ConditionStatus:
    return _TRUE if value else _FALSE


def _prepared(base: FineTuneJobStatus) -> str:
    """The summary that prepare left. The condition keeps it when the attempt has gone from the history."""
    known = conditions.find_condition(base.conditions, ConditionType.PREPARED)
    if known is not None and known.status is _TRUE and known.message:
        return known.message
    return next((each.message for each in reversed(base.attempts) if _has_prepared(each)), None) or ""


def _has_prepared(attempt: Attempt) -> bool:
    return attempt.stage is Stage.PREPARE and attempt.outcome is AttemptOutcome.SUCCEEDED


def _exported(base: FineTuneJobStatus) -> str:
    difference = base.outputs.merge_max_logit_difference
    return (
        ""
        if difference is None
        else f"The merged model's logits differ from base + adapter by at most {difference:.2g}."
    )


def _display(spec: FineTuneJobSpec | None, progress: Progress | None, phase: Phase) -> Display:
    gpus = spec.parallelism.gpus_per_node * spec.parallelism.nodes if spec else 0
    eta = progress.eta_seconds if progress and phase is Phase.TRAINING else None
    return Display(
        model=spec.model.source.rstrip("/").rsplit("/", 1)[-1] if spec else "",
        gpus=str(gpus) if gpus else "cpu",
        step=f"{progress.step}/{progress.total_steps}" if progress and progress.total_steps else "",
        loss="" if progress is None or progress.loss is None else f"{progress.loss:.4g}",
        eta="" if eta is None else format_duration(eta),
    )
