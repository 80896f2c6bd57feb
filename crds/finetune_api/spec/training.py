"""`spec.training`: the mathematics of the run. What defines the result is immutable; memory and speed may change."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field, WithJsonSchema

from finetune_api.base import (
    MESSAGE_KEY,
    UNWRITTEN,
    ApiModel,
    CelRule,
    auto_or_integer_schema,
    auto_to_none,
)

_MICRO_BATCH_TOKENS = (8, 4_194_304)
# `Auto` is None in memory: what was stored before the word existed means the same, and a trainer image that does not
# know the word never reads it.
MicroBatchTokens = Annotated[
    Annotated[int, Field(ge=_MICRO_BATCH_TOKENS[0], le=_MICRO_BATCH_TOKENS[1])] | None,
    BeforeValidator(auto_to_none),
    WithJsonSchema(auto_or_integer_schema(*_MICRO_BATCH_TOKENS)),
]
Beta = Annotated[float, Field(ge=0, lt=1)]


class Scheduler(StrEnum):
    """How the learning rate moves after the warm-up."""

    COSINE = "Cosine"
    LINEAR = "Linear"
    CONSTANT = "Constant"
    WARMUP_STABLE_DECAY = "WarmupStableDecay"


class Optimizer(StrEnum):
    """The rule by which parameters move."""

    ADAM_W = "AdamW"
    ADAM_W_8BIT = "AdamW8bit"
    PAGED_ADAM_W_8BIT = "PagedAdamW8bit"


class Precision(StrEnum):
    """Number format of the frozen weights and of the computation; trained parameters are always FP32."""

    AUTO = "Auto"
    BF16 = "BF16"
    FP16 = "FP16"
    FP32 = "FP32"


class Switch(StrEnum):
    """On, off, or left to the trainer."""

    AUTO = "Auto"
    ENABLED = "Enabled"
    DISABLED = "Disabled"


class EarlyStoppingMetric(StrEnum):
    """What must get better for training to go on."""

    VALIDATION_LOSS = "ValidationLoss"
    ACCURACY = "Accuracy"
    F1 = "F1"


class RegularisationType(StrEnum):
    """How the model is kept near the base model."""

    KL_TO_BASE = "KLToBase"


class EarlyStopping(ApiModel):
    """Ends the run when validation stops getting better."""

    patience: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=3,
        description="patience: evaluations in a row without improvement that end the run. Default: 3. Immutable.",
    )
    min_delta: Annotated[float, Field(ge=0, le=1_000_000)] = Field(
        default=0.0, description="minDelta that counts as an improvement. Default: 0. Immutable."
    )
    metric: EarlyStoppingMetric = Field(
        default=EarlyStoppingMetric.VALIDATION_LOSS,
        description="metric that must improve on the validation rows: ValidationLoss, or for SequenceClassification Accuracy or F1. "
        "Default: ValidationLoss. Immutable.",
    )


class Regularisation(ApiModel):
    """Keeps what the base model knew. Reserved: the trainer refuses it until it is there."""

    type: RegularisationType = Field(
        default=RegularisationType.KL_TO_BASE,
        description="type: KLToBase adds the distance to the base model's predictions to the loss. Default: KLToBase. Immutable.",
    )
    weight: Annotated[float, Field(gt=0, le=100)] = Field(
        default=0.1, description="weight of that term in the loss. Default: 0.1. Immutable."
    )


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
        CelRule(
            "!(has(self.globalBatchSize) && has(self.globalBatchTokens))",
            "training.globalBatchSize and training.globalBatchTokens exclude each other: set rows or tokens for one step, not both",
        ),
        CelRule(
            "!has(self.decayFraction) || self.scheduler == 'WarmupStableDecay'",
            "training.decayFraction is for training.scheduler WarmupStableDecay: set that scheduler or remove decayFraction",
        ),
        CelRule(
            "!has(self.decayFraction) || !has(self.warmupFraction) || self.decayFraction + self.warmupFraction <= 1.0",
            "training.warmupFraction and training.decayFraction together are more than all steps: lower one of them",
        ),
    )
    immutable_fields: ClassVar[tuple[str, ...]] = (
        "epochs",
        "max_steps",
        "learning_rate",
        "scheduler",
        "warmup_steps",
        "warmup_fraction",
        "decay_fraction",
        "weight_decay",
        "max_grad_norm",
        "optimizer",
        "adam_betas",
        "global_batch_size",
        "global_batch_tokens",
        "packing",
        "deterministic",
        "precision",
        "early_stopping",
        "regularisation",
        "seed",
        "evaluation_steps",
    )
    settled_fields: ClassVar[tuple[str, ...]] = (
        "micro_batch_tokens",
        "gradient_checkpointing",
        "logging_steps",
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
        description="scheduler of the learning rate after the warm-up: Cosine or Linear down to 0, Constant, or WarmupStableDecay: constant, "
        "then down to 0 in the last decayFraction of the steps. Default: Cosine. Immutable.",
    )
    warmup_steps: Annotated[int, Field(ge=0, le=10_000_000)] | None = Field(
        default=None,
        description="warmupSteps in which the learning rate rises from 0. Default: none. Immutable.",
    )
    warmup_fraction: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None, description="warmupFraction of all steps, instead of warmupSteps. Immutable."
    )
    decay_fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.1,
        json_schema_extra=UNWRITTEN,
        description="decayFraction of all steps in which WarmupStableDecay brings the learning rate down to 0. Default: 0.1. Immutable.",
    )
    weight_decay: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.0, description="weightDecay of AdamW. Default: 0. Immutable."
    )
    max_grad_norm: Annotated[float, Field(gt=0, le=1000)] = Field(
        default=1.0, description="maxGradNorm clips the global norm of the gradients. Default: 1. Immutable."
    )
    optimizer: Optimizer = Field(
        default=Optimizer.ADAM_W,
        description="optimizer: AdamW, AdamW8bit (its state takes a quarter of the memory), or PagedAdamW8bit (which also moves the state to "
        "host memory when the GPU's is short). Default: AdamW. Immutable.",
    )
    adam_betas: Annotated[list[Beta], Field(min_length=2, max_length=2)] = Field(
        default=[0.9, 0.999], description="adamBetas of AdamW. Default: [0.9, 0.999]. Immutable."
    )
    global_batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=16,
        json_schema_extra=UNWRITTEN,
        description="globalBatchSize is the number of rows in one optimizer step, over all GPUs and accumulation together; "
        "it stays the same whatever the number of GPUs. Default: 16 when globalBatchTokens is not set. Immutable.",
    )
    global_batch_tokens: Annotated[int, Field(ge=8, le=1_000_000_000)] | None = Field(
        default=None,
        description="globalBatchTokens is the number of tokens in one optimizer step, instead of globalBatchSize: for format Text. Immutable.",
    )
    micro_batch_tokens: MicroBatchTokens = Field(
        default=None,
        json_schema_extra={
            MESSAGE_KEY: "training.microBatchTokens must be Auto or a number of tokens, such as 8192"
        },
        description="microBatchTokens bounds the tokens that one GPU computes at once: Auto, or a number. It changes memory and speed, never "
        "the result. Default: Auto, chosen by the trainer. Can be changed while the job is Pending, Queued, Suspended or Failed.",
    )
    packing: Switch = Field(
        default=Switch.AUTO,
        description="packing computes rows without padding, one after another, none seeing the others; it changes speed, not the result. Auto "
        "packs wherever the method allows it. Default: Auto. Immutable.",
    )
    deterministic: bool = Field(
        default=False,
        description="deterministic takes only GPU kernels that give the same bits each time, so that a resumed run is the uninterrupted one "
        "bit for bit; it is slower. Default: false. Immutable.",
    )
    precision: Precision = Field(
        default=Precision.AUTO,
        description="precision: BF16, FP16 or FP32; Auto takes BF16 on GPUs and FP32 on CPUs. Trained parameters are FP32 in all. Default: Auto. Immutable.",
    )
    gradient_checkpointing: Switch = Field(
        default=Switch.AUTO,
        description="gradientCheckpointing computes activations twice instead of keeping them: less memory, slower, the same result. Auto "
        "decides by the estimated memory. Default: Auto. Can be changed while the job is Pending, Queued, Suspended or Failed.",
    )
    early_stopping: EarlyStopping | None = Field(
        default=None,
        description="earlyStopping ends the run when the validation rows stop getting better; needs dataset.validation. Default: none. Immutable.",
    )
    regularisation: Regularisation | None = Field(
        default=None,
        description="regularisation keeps what the base model knew. Reserved: refused by the prepare stage until it is there. Default: none. Immutable.",
    )
    seed: Annotated[int, Field(ge=0, le=4_294_967_295)] = Field(
        default=42,
        description="seed of the data order, the initial adapter and dropout. Default: 42. Immutable.",
    )
    logging_steps: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=1,
        description="loggingSteps between two lines of the log and two reports of progress. Every step's loss is recorded anyway. Default: 1. "
        "Can be changed while the job is Pending, Queued, Suspended or Failed.",
    )
    evaluation_steps: Annotated[int, Field(ge=1, le=10_000_000)] | None = Field(
        default=None,
        description="evaluationSteps between two evaluations on the validation rows; needs dataset.validation. Default: once an epoch. Immutable.",
    )
