"""`spec.training`: the mathematics of the run. All of it is immutable: it defines what is computed."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from finetune_api.base import ApiModel, CelRule


class Scheduler(StrEnum):
    """How the learning rate moves after the warm-up."""

    COSINE = "Cosine"
    LINEAR = "Linear"
    CONSTANT = "Constant"


class Precision(StrEnum):
    """Number format of the frozen weights and of the computation; trained parameters are always FP32."""

    AUTO = "Auto"
    BF16 = "BF16"
    FP32 = "FP32"


class Training(ApiModel):
    """How long, how fast, on how much at once."""

    cel_rules: ClassVar[tuple[CelRule, ...]] = (
        CelRule(
            "!(has(self.epochs) && has(self.maxSteps))",
            "training.epochs and training.maxSteps exclude each other: set the one that should end the run",
        ),
        CelRule(
            "!(has(self.warmupSteps) && has(self.warmupFraction))",
            "training.warmupSteps and training.warmupFraction exclude each other: remove one",
        ),
        CelRule(
            "!has(self.warmupSteps) || !has(self.maxSteps) || self.warmupSteps <= self.maxSteps",
            "training.warmupSteps is larger than training.maxSteps: the learning rate would never be reached; lower warmupSteps",
        ),
    )

    epochs: Annotated[float, Field(gt=0, le=1000)] | None = Field(
        default=None,
        description="epochs over the training rows; fractions are allowed. Default: 3 when maxSteps is not set. Immutable.",
    )
    max_steps: Annotated[int, Field(ge=1, le=100_000_000)] | None = Field(
        default=None,
        description="maxSteps ends the run after that many optimizer steps, instead of epochs. Immutable.",
    )
    learning_rate: Annotated[float, Field(gt=0, le=1)] = Field(
        default=2e-4, description="learningRate at the end of the warm-up. Default: 2e-4. Immutable."
    )
    scheduler: Scheduler = Field(
        default=Scheduler.COSINE,
        description="scheduler of the learning rate after the warm-up: Cosine or Linear down to 0, or Constant. Default: Cosine. Immutable.",
    )
    warmup_steps: Annotated[int, Field(ge=0, le=10_000_000)] | None = Field(
        default=None,
        description="warmupSteps in which the learning rate rises from 0. Default: none. Immutable.",
    )
    warmup_fraction: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None, description="warmupFraction of all steps, instead of warmupSteps. Immutable."
    )
    weight_decay: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.0, description="weightDecay of AdamW. Default: 0. Immutable."
    )
    max_grad_norm: Annotated[float, Field(gt=0, le=1000)] = Field(
        default=1.0, description="maxGradNorm clips the global norm of the gradients. Default: 1. Immutable."
    )
    global_batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=16,
        description="globalBatchSize is the number of rows in one optimizer step, over all GPUs and accumulation together; "
        "it stays the same whatever the number of GPUs. Default: 16. Immutable.",
    )
    micro_batch_tokens: Annotated[int, Field(ge=8, le=4_194_304)] | None = Field(
        default=None,
        description="microBatchTokens bounds the tokens that one GPU computes at once; it changes memory and speed, never the "
        "result. Default: chosen by the trainer.",
    )
    precision: Precision = Field(
        default=Precision.AUTO,
        description="precision: BF16 or FP32; Auto takes BF16 on GPUs and FP32 on CPUs. Trained parameters are FP32 in both. Default: Auto. Immutable.",
    )
    seed: Annotated[int, Field(ge=0, le=4_294_967_295)] = Field(
        default=42,
        description="seed of the data order, the initial adapter and dropout. Default: 42. Immutable.",
    )
    logging_steps: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=1,
        description="loggingSteps between two lines of the log and two reports of progress. Every step's loss is recorded anyway. Default: 1.",
    )
