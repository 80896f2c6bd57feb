"""`FineTuneJob.spec` as a whole, and what of it may never change."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from finetune_api.base import DNS_LABEL_PATTERN, MESSAGE_KEY, OPTIONAL, ApiModel, CelRule, ObjectName
from finetune_api.spec.checkpoints import Checkpoints
from finetune_api.spec.combinations import (
    LIFE_CYCLE_RULES,
    METHOD_RULES,
    OUTPUT_RULES,
    TASK_RULES,
    TRAINING_RULES,
)
from finetune_api.spec.dataset import Dataset
from finetune_api.spec.environment import EnvironmentVariable
from finetune_api.spec.evaluation import Evaluation
from finetune_api.spec.failure_policy import FailurePolicy
from finetune_api.spec.method import Method
from finetune_api.spec.model import Model
from finetune_api.spec.output import Output
from finetune_api.spec.parallelism import Parallelism
from finetune_api.spec.references import PullSecretRef
from finetune_api.spec.resources import Resources
from finetune_api.spec.resume_from import ResumeFrom
from finetune_api.spec.task import ClassLabel, Task
from finetune_api.spec.tracking import Tracking
from finetune_api.spec.training import Training

QueueName = Annotated[str, StringConstraints(pattern=DNS_LABEL_PATTERN, min_length=1, max_length=63)]


class DeletionPolicy(StrEnum):
    """What becomes of the run's folder in the store when the FineTuneJob is deleted."""

    RETAIN = "Retain"
    DELETE = "Delete"


class StopAfter(StrEnum):
    """The stage after which the job ends."""

    PREPARE = "Prepare"


class FineTuneJobSpec(ApiModel):
    """What is fine-tuned, on what, how, and where the result goes."""

    cel_rules: ClassVar[tuple[CelRule, ...]] = (
        *TASK_RULES,
        *METHOD_RULES,
        *TRAINING_RULES,
        *OUTPUT_RULES,
        *LIFE_CYCLE_RULES,
    )
    # model, dataset, method, training and output say themselves what of them is immutable.
    immutable_fields: ClassVar[tuple[str, ...]] = ("task", "labels", "resume_from", "stop_after")
    settled_fields: ClassVar[tuple[str, ...]] = (
        "parallelism",
        "resources",
        "checkpoints",
        "evaluation",
        "tracking",
        "queue_name",
        "workload_priority_class_name",
        "image",
        "image_pull_secrets",
        "env",
    )

    task: Task = Field(
        default=Task.CAUSAL_LM,
        description="task: CausalLM writes text; SequenceClassification puts a text into one of labels, with a head of its own instead of the "
        "output layer. Default: CausalLM. Immutable.",
    )
    labels: Annotated[list[ClassLabel], Field(min_length=2, max_length=1024)] | None = Field(
        default=None,
        json_schema_extra={"x-kubernetes-list-type": "set"},
        description="labels are the names of the classes, in the order of the head's outputs; for task SequenceClassification. Default: none. Immutable.",
    )
    model: Model = Field(
        description="model is the base model. Immutable but for references to Secrets and stores."
    )
    dataset: Dataset = Field(
        description="dataset is what the model is tuned on. Immutable but for references to Secrets and stores."
    )
    method: Method = Field(description="method says which parameters are trained. Immutable.")
    training: Training = Field(
        default=Training(),
        description="training is the mathematics of the run: how long, how fast, on how much at once. Immutable, but for what changes only "
        "memory and speed.",
    )
    parallelism: Parallelism = Field(
        default=Parallelism(),
        description="parallelism says on how many nodes and GPUs the run is spread; the result stays the same. Can be changed while the job is "
        "Pending, Queued, Suspended or Failed.",
    )
    resources: Resources = Field(
        default=Resources(),
        description="resources that the pods ask for, and where they may run. Can be changed while the job is Pending, Queued, Suspended or Failed.",
    )
    checkpoints: Checkpoints = Field(
        default=Checkpoints(),
        description="checkpoints says how often the run is saved to the store, and how much of it is kept. Can be changed while the job is "
        "Pending, Queued, Suspended or Failed.",
    )
    evaluation: Evaluation = Field(
        default=Evaluation(),
        description="evaluation says what is measured on the base and on the tuned model, and what must be reached. Can be changed while the "
        "job is Pending, Queued, Suspended or Failed.",
    )
    output: Output = Field(
        json_schema_extra=OPTIONAL,
        description="output is where checkpoints and the finished model go. It may be left out where the installation has a default store: the "
        "model's prefix is then <default store>/<namespace>/<name>, and status.outputs says where. output.uri is immutable; the rest can be "
        "changed while the job is Pending, Queued, Suspended or Failed.",
    )
    tracking: Tracking = Field(
        default=Tracking(),
        description="tracking reports curves and settings to TensorBoard, SwanLab, MLflow or Weights & Biases. Can be changed while the job is "
        "Pending, Queued, Suspended or Failed.",
    )
    failure_policy: FailurePolicy = Field(
        default=FailurePolicy(),
        description="failurePolicy says when a failed attempt is followed by another one, and how long anything may take.",
    )
    suspend: bool = Field(
        default=False,
        description="suspend ends the running pods after they saved a checkpoint and starts none until it is false again; the run then "
        "goes on where it was. Default: false. Can be changed at any time.",
    )
    retry: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        default=0,
        description="retry: raising it on a Failed job starts the next attempt from the newest valid checkpoint, with maxRestarts counted "
        "anew. It cannot be lowered. Default: 0. Can be raised at any time.",
    )
    resume_from: ResumeFrom | None = Field(
        default=None,
        description="resumeFrom starts this run from the newest checkpoint of an earlier run of the same output.uri. Default: none. Immutable.",
    )
    queue_name: QueueName | None = Field(
        default=None,
        json_schema_extra={
            MESSAGE_KEY: "queueName must be the name of a LocalQueue: lower-case letters, digits and '-'"
        },
        description="queueName is the Kueue LocalQueue of the job's namespace that admits the train pods. Default: not queued. Can be changed "
        "while the job is Pending, Queued, Suspended or Failed.",
    )
    workload_priority_class_name: ObjectName | None = Field(
        default=None,
        description="workloadPriorityClassName is the Kueue WorkloadPriorityClass of the train pods; needs queueName. Default: the queue's. Can "
        "be changed while the job is Pending, Queued, Suspended or Failed.",
    )
    stop_after: StopAfter | None = Field(
        default=None,
        description="stopAfter: Prepare ends the job when the data are checked and tokenised: a dry run that asks for no GPU. Default: the whole "
        "run. Immutable.",
    )
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=31_536_000)] | None = Field(
        default=None,
        description="ttlSecondsAfterFinished after which a finished FineTuneJob is deleted; what it left in the store stays. Default: never. Can "
        "be changed at any time.",
    )
    deletion_policy: DeletionPolicy = Field(
        default=DeletionPolicy.RETAIN,
        description="deletionPolicy: Retain keeps everything in the store when the FineTuneJob is deleted; Delete removes this run's "
        "folder first. Default: Retain. Can be changed at any time.",
    )
    image: Annotated[str, StringConstraints(pattern=r"^[^\s]+$", min_length=1, max_length=512)] | None = (
        Field(
            default=None,
            json_schema_extra={MESSAGE_KEY: "image must be a container image reference without spaces"},
            description="image replaces the trainer image of the train and export stages. Default: the installation's, and that of the first attempt "
            "from then on. Can be changed while the job is Pending, Queued, Suspended or Failed.",
        )
    )
    image_pull_secrets: Annotated[list[PullSecretRef], Field(max_length=8)] | None = Field(
        default=None,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        description="imagePullSecrets of the job's namespace, added to the installation's. Default: none. Can be changed while the job is Pending, Queued, "
        "Suspended or Failed.",
    )
    env: Annotated[list[EnvironmentVariable], Field(max_length=64)] | None = Field(
        default=None,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        description="env sets plain variables of the trainer's container, of an allow-list of names. Default: none. Can be changed while the job is Pending, "
        "Queued, Suspended or Failed.",
    )
