"""`FineTuneJob.status`: what the operator observed, computed in memory and written once."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints, WithJsonSchema

from finetune_api.base import ApiModel
from finetune_api.names import Stage
from finetune_api.spec.store import OutputStore

Time = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
Message = Annotated[str, StringConstraints(max_length=32_768)]
MetricName = Annotated[str, StringConstraints(min_length=1, max_length=64)]
# The history is capped so that an object with many attempts stays small.
MAX_ATTEMPTS_SHOWN = 10


class ConditionType(StrEnum):
    """Types of `status.conditions`."""

    ACCEPTED = "Accepted"
    PREPARED = "Prepared"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    EXPORTED = "Exported"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    FINISHED = "Finished"


class ConditionStatus(StrEnum):
    """As in metav1.Condition."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(ApiModel):
    """metav1.Condition. Source: Kubernetes API conventions."""

    type: Annotated[str, StringConstraints(max_length=316)] = Field(description="type of the condition.")
    status: ConditionStatus = Field(description="status: True, False or Unknown.")
    reason: Annotated[
        str,
        StringConstraints(min_length=1, max_length=1024, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"),
    ] = Field(description="reason in CamelCase.")
    message: Message = Field(default="", description="message for people.")
    last_transition_time: Time = Field(description="lastTransitionTime is when status last changed.")
    observed_generation: int = Field(
        default=0, description="observedGeneration of the spec this condition is about."
    )


class Phase(StrEnum):
    """For display. Programs read conditions."""

    PENDING = "Pending"
    PREPARING = "Preparing"
    QUEUED = "Queued"
    TRAINING = "Training"
    RESTARTING = "Restarting"
    EXPORTING = "Exporting"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    SUSPENDED = "Suspended"


class Progress(ApiModel):
    """Where training stands, as the train pod last reported."""

    step: int = Field(description="step is the number of finished optimizer steps.")
    total_steps: int = Field(description="totalSteps of the run.")
    epoch: float | None = Field(default=None, description="epoch, with fraction.")
    percent: int | None = Field(default=None, description="percent of all steps.")
    loss: float | None = Field(default=None, description="loss of the last step, per learned token.")
    eval_loss: float | None = Field(
        default=None, description="evalLoss: loss on the validation rows, when they were last evaluated."
    )
    learning_rate: float | None = Field(default=None, description="learningRate of the last step.")
    tokens_per_second: float | None = Field(
        default=None, description="tokensPerSecond trained on, padding not counted."
    )
    eta_seconds: int | None = Field(default=None, description="etaSeconds until the last step.")
    peak_memory_bytes: int | None = Field(
        default=None, description="peakMemoryBytes of rank 0, on its device."
    )
    last_update_time: Time | None = Field(default=None, description="lastUpdateTime of this block.")


class Effective(ApiModel):
    """What really runs, after every default was decided."""

    micro_batch_tokens: int = Field(description="microBatchTokens that one process computes at once.")
    gradient_accumulation: int = Field(
        description="gradientAccumulation: the largest number of micro-batches in one step and process."
    )
    world_size: int = Field(description="worldSize is the number of training processes.")
    strategy: str = Field(description="strategy that joins the processes.")


class CheckpointStatus(ApiModel):
    """The newest committed checkpoint."""

    step: int = Field(description="step after which it was taken.")
    uri: str = Field(description="uri of its folder.")
    time: Time = Field(description="time of the commit.")
    size_bytes: int | None = Field(default=None, description="sizeBytes of all its files in the store.")
    save_seconds: float | None = Field(
        default=None, description="saveSeconds from the end of its step to its commit."
    )
    stop_seconds: float | None = Field(
        default=None,
        description="stopSeconds that the train pods need, as measured, to finish a step, save and upload when they are told to go; "
        "spec.checkpoints.gracePeriodSeconds: Auto goes by it from the next attempt on.",
    )


class AttemptOutcome(StrEnum):
    """How an attempt ended."""

    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    # Ended by the operator: the job was suspended or edited, or its pods did not all find a place.
    STOPPED = "Stopped"


class Attempt(ApiModel):
    """One Job of one stage."""

    number: int = Field(description="number of the attempt, counted from 1 within its stage.")
    stage: Stage = Field(description="stage: prepare, train or export.")
    job_uid: str = Field(default="", alias="jobUID", description="jobUID is the uid of the attempt's Job.")
    started: Time | None = Field(default=None, description="started is when its Job was created.")
    ended: Time | None = Field(default=None, description="ended is when its pod ended.")
    outcome: AttemptOutcome = Field(
        description="outcome: Running, Succeeded, Failed, or Stopped by the operator."
    )
    reason: str | None = Field(
        default=None, description="reason is the failure class, or why the operator stopped it."
    )
    exit_code: int | None = Field(default=None, description="exitCode of the trainer container.")
    running_since: Time | None = Field(
        default=None, description="runningSince is when all its containers had last been started."
    )
    node: str | None = Field(
        default=None, description="node it ran on; of several, the one that failed first."
    )
    rank: int | None = Field(
        default=None, description="rank of the process that failed first, where there are several."
    )
    step: int | None = Field(default=None, description="step it had reached.")
    steps_lost: int | None = Field(
        default=None,
        description="stepsLost: finished steps that no committed checkpoint held when the attempt ended; of train attempts that did not succeed.",
    )
    message: Message | None = Field(default=None, description="message says what happened.")
    decision: Message | None = Field(
        default=None, description="decision says whether another attempt follows, and why."
    )
    advice: Message | None = Field(default=None, description="advice says what to do about it.")
    counted: bool = Field(default=False, description="counted against failurePolicy.maxRestarts.")


class Display(ApiModel):
    """Texts for `kubectl get`, whose columns cannot compute."""

    model: str = Field(default="", description="model is the last part of the base model's source.")
    gpus: str = Field(default="", description="gpus in all; `cpu` for none.")
    step: str = Field(default="", description="step as done/all.")
    loss: str = Field(default="", description="loss, rounded.")
    eta: str = Field(default="", description="eta until the last step.")


class Outputs(ApiModel):
    """What the job produced."""

    adapter_uri: str | None = Field(
        default=None, alias="adapterURI", description="adapterURI of the adapter's folder."
    )
    merged_uri: str | None = Field(
        default=None, alias="mergedURI", description="mergedURI of the merged model's folder."
    )
    report_uri: str | None = Field(
        default=None, alias="reportURI", description="reportURI of the data report."
    )
    manifest_digest: str | None = Field(
        default=None, description="manifestDigest: SHA-256 of the model's finetune-manifest.json."
    )
    run_uri: str | None = Field(
        default=None, alias="runURI", description="runURI of the run's folder: checkpoints, logs, artefacts."
    )
    store: OutputStore | None = Field(
        default=None,
        description="store of these URIs where spec.output does not say: the installation's default.",
    )
    merge_max_logit_difference: float | None = Field(
        default=None,
        description="mergeMaxLogitDifference is the largest difference between the merged model's logits and those of base + adapter on real rows.",
    )
    metrics: Annotated[dict[MetricName, float], Field(max_length=64)] | None = Field(
        default=None,
        description="metrics of spec.evaluation, by name; those of the base model begin with base.",
    )


class Provenance(ApiModel):
    """What went into the model."""

    model_revision: str | None = Field(
        default=None, description="modelRevision: the commit that a hub's model was read at."
    )
    model_digest: str | None = Field(default=None, description="modelDigest of the base model's files.")
    dataset_digest: str | None = Field(
        default=None, description="datasetDigest of rows, tokenizer and settings."
    )
    rows_used: int | None = Field(default=None, description="rowsUsed for training.")
    rows_dropped: int | None = Field(
        default=None, description="rowsDropped by the rules of dataset.preparation."
    )
    config_digest: str | None = Field(
        default=None, description="configDigest of what of the spec defines the result."
    )
    trainer_image: str | None = Field(default=None, description="trainerImage of the first attempt.")


class FineTuneJobStatus(ApiModel):
    """What the operator observed."""

    observed_generation: int | None = Field(
        default=None, description="observedGeneration of the spec the status is about."
    )
    conditions: Annotated[list[Condition], Field(max_length=32)] = Field(
        default=[],
        description="conditions: Accepted, Prepared, Running, Suspended, Exported, Succeeded, Failed, Finished (either end).",
    )
    phase: Phase | None = Field(
        default=None, description="phase is a summary for display; programs read conditions."
    )
    reason: str | None = Field(default=None, description="reason of the phase, in CamelCase.")
    message: Message | None = Field(
        default=None,
        description="message says why the job is where it is; while it trains, also what the trainer warns of; after an error, what to do.",
    )
    start_time: Time | None = Field(default=None, description="startTime of the first stage.")
    completion_time: Time | None = Field(default=None, description="completionTime of the job, either way.")
    progress: Progress | None = Field(default=None, description="progress of training.")
    effective: Effective | None = Field(
        default=None, description="effective settings of the running attempt."
    )
    checkpoint: CheckpointStatus | None = Field(
        default=None, description="checkpoint is the newest committed one."
    )
    attempts: Annotated[list[Attempt], Field(max_length=64)] = Field(
        default=[], description="attempts, the newest last; older ones are dropped."
    )
    restarts: int = Field(
        default=0, description="restarts counted against failurePolicy.maxRestarts in the current stage."
    )
    preemptions: int = Field(
        default=0,
        description="preemptions: evictions by the queue, and disruptions after which the run went on from a new checkpoint.",
    )
    steps_lost: int = Field(
        default=0,
        description="stepsLost by all attempts together: finished steps that had to be trained again, or were given up with the job.",
    )
    observed_retry: int = Field(
        default=0, description="observedRetry is the spec.retry that was last acted on."
    )
    waiting_since: Time | None = Field(
        default=None,
        description="waitingSince is when the job began to wait for a pod to start; failurePolicy.pendingDeadlineSeconds counts from it.",
    )
    active_seconds: int = Field(
        default=0,
        description="activeSeconds that pods of ended attempts ran; failurePolicy.activeDeadlineSeconds bounds them.",
    )
    memory_backoff: int = Field(
        default=0,
        description="memoryBackoff: how often the micro-batch was halved after running out of memory.",
    )
    incomplete_gangs: int = Field(
        default=0,
        description="incompleteGangs in a row: attempts whose pods did not all find a node in time.",
    )
    display: Display = Field(default=Display(), description="display holds the texts of kubectl's columns.")
    outputs: Outputs = Field(default=Outputs(), description="outputs of the job.")
    provenance: Provenance = Field(default=Provenance(), description="provenance of the model.")
