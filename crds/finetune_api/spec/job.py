"""`FineTuneJob.spec` as a whole, and what of it may never change."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from finetune_api.base import ApiModel
from finetune_api.spec.checkpoints import Checkpoints
from finetune_api.spec.dataset import Dataset
from finetune_api.spec.failure_policy import FailurePolicy
from finetune_api.spec.method import Method
from finetune_api.spec.model import Model
from finetune_api.spec.output import Output
from finetune_api.spec.parallelism import Parallelism
from finetune_api.spec.resources import Resources
from finetune_api.spec.training import Training


class FineTuneJobSpec(ApiModel):
    """What is fine-tuned, on what, how, and where the result goes."""

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
