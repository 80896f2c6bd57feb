"""`FineTuneJob.spec` as a whole, and what of it may never change."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from finetune_api.base import DNS_LABEL_PATTERN, ApiModel, CelRule, ObjectName
from finetune_api.spec.checkpoints import Checkpoints
from finetune_api.spec.dataset import Dataset
from finetune_api.spec.environment import EnvironmentVariable
from finetune_api.spec.failure_policy import FailurePolicy, Seconds
from finetune_api.spec.method import Method
from finetune_api.spec.model import Model
from finetune_api.spec.output import Output
from finetune_api.spec.parallelism import Parallelism
from finetune_api.spec.resources import Resources
from finetune_api.spec.resume_from import ResumeFrom
from finetune_api.spec.store import SecretRef
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
        CelRule(
            "!has(self.ttlSecondsAfterFinished) || self.deletionPolicy != 'Delete'",
            "ttlSecondsAfterFinished with deletionPolicy Delete would erase the model on its own: remove one of them",
        ),
        CelRule(
            "!has(self.workloadPriorityClassName) || has(self.queueName)",
            "workloadPriorityClassName orders the jobs of a queue and needs queueName: set queueName or remove it",
        ),
    )

    # The mathematics of a run: changing any of it makes another run, so it needs another FineTuneJob.
    immutable_fields: ClassVar[tuple[str, ...]] = ("model", "dataset", "method", "training")

    model: Model = Field(description="model is the base model. Immutable.")
    dataset: Dataset = Field(description="dataset is what the model is tuned on. Immutable.")
    method: Method = Field(description="method says which parameters are trained. Immutable.")
    training: Training = Field(
        default=Training(), description="training is the mathematics of the run. Immutable."
    )
    parallelism: Parallelism = Field(
        default=Parallelism(), description="parallelism says on how many GPUs the run is spread."
    )
    resources: Resources = Field(default=Resources(), description="resources of the pods.")
    checkpoints: Checkpoints = Field(
        default=Checkpoints(), description="checkpoints says how often the run is saved to the store."
    )
    output: Output = Field(description="output is where checkpoints and the finished model go.")
    failure_policy: FailurePolicy = Field(
        default=FailurePolicy(),
        description="failurePolicy says when a failed attempt is followed by another one.",
    )
    suspend: bool = Field(
        default=False,
        description="suspend ends the running pods after they saved a checkpoint and starts none until it is false again; the run then "
        "goes on where it was. Default: false. Can be changed at any time.",
    )
    retry: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        default=0,
        description="retry: raising it on a Failed job starts the next attempt from the newest valid checkpoint, with maxRestarts counted "
        "anew. It cannot be lowered. Default: 0.",
    )
    resume_from: ResumeFrom | None = Field(
        default=None,
        description="resumeFrom starts this run from the newest checkpoint of an earlier run of the same output.uri. Immutable.",
    )
    queue_name: QueueName | None = Field(
        default=None,
        description="queueName is the Kueue LocalQueue of the job's namespace that admits the train pods. Default: not queued.",
    )
    workload_priority_class_name: ObjectName | None = Field(
        default=None,
        description="workloadPriorityClassName is the Kueue WorkloadPriorityClass of the train pods; needs queueName.",
    )
    stop_after: StopAfter | None = Field(
        default=None,
        description="stopAfter: Prepare ends the job when the data are checked and tokenised: a dry run that asks for no GPU. Immutable.",
    )
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=31_536_000)] | None = Field(
        default=None,
        description="ttlSecondsAfterFinished after which a finished FineTuneJob is deleted; what it left in the store stays. Default: never.",
    )
    deletion_policy: DeletionPolicy = Field(
        default=DeletionPolicy.RETAIN,
        description="deletionPolicy: Retain keeps everything in the store when the FineTuneJob is deleted; Delete removes this run's "
        "folder first. Default: Retain.",
    )
    image: Annotated[str, StringConstraints(pattern=r"^[^\s]+$", min_length=1, max_length=512)] | None = Field(
        default=None,
        json_schema_extra={"x-message": "image must be a container image reference without spaces"},
        description="image replaces the trainer image of the train and export stages. Default: the installation's.",
    )
    image_pull_secrets: Annotated[list[SecretRef], Field(max_length=8)] | None = Field(
        default=None, description="imagePullSecrets of the job's namespace, added to the installation's."
    )
    env: Annotated[list[EnvironmentVariable], Field(max_length=64)] | None = Field(
        default=None, description="env sets plain variables of the trainer's container, of an allow-list of names."
    )
