"""What the API offers and this trainer does not do yet: refused by the prepare stage with a sentence, never ignored.

One table. A row names a field as users write it, the values beside the default that are done, and what to set instead.
Whatever is not in the table is done, by the trainer or by the operator; a test holds that list against the API, so that
a new field or value cannot be forgotten. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import Enum

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from finetune_api.spec import (
    Addressing,
    AugmentationMethod,
    BalanceMethod,
    Checksums,
    ComputeType,
    DataFormat,
    Duplicates,
    EarlyStoppingMetric,
    FineTuneJobSpec,
    FullWidth,
    InvalidRows,
    Leakage,
    LoRAVariant,
    LossOn,
    MergedPrecision,
    MethodType,
    Noise,
    Offload,
    OnOutOfMemory,
    Optimizer,
    Overlong,
    Precision,
    PromptInit,
    QuantizationType,
    Redaction,
    RegexAction,
    Scheduler,
    Strategy,
    SwanLabMode,
    Switch,
    Task,
    UnicodeForm,
)
from finetune_trainer.errors import UserError

_SHOWN_CHARACTERS = 60


@dataclass(frozen=True)
class Limit:
    """A field of which only some values are done: its default and `done`."""

    field: str
    instead: str
    done: Collection[object] = ()

    def allows(self, value: object, default: object) -> bool:
        """Whether this value may stand in the field."""
        if value == default:
            return True
        words = value if isinstance(value, list) else [value]
        return bool(self.done) and all(word in self.done for word in words)


_REMOVE = "remove it"


def _store_limits(place: str) -> tuple[Limit, ...]:
    """Everything about a store is done; its words stand here because words are listed one by one."""
    return (
        Limit(f"{place}.addressing", "set Auto", done=tuple(Addressing)),
        Limit(f"{place}.checksums", "set WhenSupported", done=tuple(Checksums)),
    )


_TASK = (Limit("task", "set CausalLM", done=tuple(Task)),)
_MODEL = (
    Limit(
        "model.trustRemoteCode", "set false; only architectures that transformers itself knows are trained"
    ),
    *_store_limits("model.store"),
)
_DATASET = (
    Limit("dataset.train[].format", "set Auto", done=tuple(DataFormat)),
    *_store_limits("dataset.train[].store"),
    Limit("dataset.validation.sources[].format", "set Auto", done=tuple(DataFormat)),
    *_store_limits("dataset.validation.sources[].store"),
    Limit("dataset.test[].format", "set Auto", done=tuple(DataFormat)),
    *_store_limits("dataset.test[].store"),
    Limit("dataset.lossOn", "set Assistant", done=tuple(LossOn)),
    Limit("dataset.preparation.overlong", "set Drop", done=tuple(Overlong)),
    Limit("dataset.preparation.invalidRows", "set Fail", done=tuple(InvalidRows)),
    Limit("dataset.preparation.duplicates", "set None", done=tuple(Duplicates)),
    Limit("dataset.preparation.unicode", "set None", done=tuple(UnicodeForm)),
    Limit("dataset.preparation.fullWidth", "set Keep", done=tuple(FullWidth)),
    Limit("dataset.preparation.leakage", "set Drop", done=tuple(Leakage)),
    Limit("dataset.preparation.balance.method", "set Oversample", done=tuple(BalanceMethod)),
    Limit("dataset.preparation.regex[].action", "set Remove", done=tuple(RegexAction)),
    Limit("dataset.preparation.noise", _REMOVE, done=tuple(Noise)),
    Limit("dataset.preparation.redact", _REMOVE, done=tuple(Redaction)),
    Limit("dataset.preparation.augment.methods", _REMOVE, done=tuple(AugmentationMethod)),
)
_METHOD = (
    Limit("method.type", "set LoRA", done=tuple(MethodType)),
    Limit("method.lora.variant", "set Standard", done=tuple(LoRAVariant)),
    Limit("method.quantization.type", "set NF4", done=tuple(QuantizationType)),
    Limit("method.quantization.computeType", "set Auto", done=tuple(ComputeType)),
    Limit("method.promptTuning.init", "set Random", done=tuple(PromptInit)),
)
_TRAINING = (
    Limit("training.scheduler", "set Cosine, Linear or Constant", done=tuple(Scheduler)),
    Limit("training.optimizer", "set AdamW", done=tuple(Optimizer)),
    Limit("training.globalBatchTokens", "set training.globalBatchSize, in rows, instead"),
    Limit("training.packing", "set Auto", done=tuple(Switch)),
    Limit("training.precision", "set BF16 or FP32", done=tuple(Precision)),
    Limit("training.gradientCheckpointing", "set Auto", done=tuple(Switch)),
    Limit("training.earlyStopping.metric", "set ValidationLoss", done=tuple(EarlyStoppingMetric)),
    Limit("training.regularisation", _REMOVE),
)
_PARALLELISM = (
    Limit("parallelism.strategy", "set DDP", done=tuple(Strategy)),
    Limit("parallelism.offload", "set None", done=tuple(Offload)),
)
_EVALUATION = (
    Limit("evaluation.metrics", _REMOVE),
    Limit("evaluation.minimum", _REMOVE),
    Limit("evaluation.maximum", _REMOVE),
    Limit("evaluation.maxSamples", _REMOVE),
    Limit("evaluation.generation", _REMOVE),
)
_OUTPUT = (
    Limit("output.export", "set Last"),
    Limit("output.merged.precision", "set Base", done=tuple(MergedPrecision)),
    Limit("output.merged.verify", "set true; a merged model is always verified"),
    Limit("output.quantized", "set None"),
    *_store_limits("output.store"),
)
_TRACKING = (
    Limit("tracking.swanLab.mode", "set Cloud", done=tuple(SwanLabMode)),
    *_store_limits("tracking.tensorBoard.store"),
)
_FAILURE_POLICY = (Limit("failurePolicy.onOutOfMemory", "set Backoff", done=tuple(OnOutOfMemory)),)

LIMITS: tuple[Limit, ...] = (
    *_TASK,
    *_MODEL,
    *_DATASET,
    *_METHOD,
    *_TRAINING,
    *_PARALLELISM,
    *_EVALUATION,
    *_OUTPUT,
    *_TRACKING,
    *_FAILURE_POLICY,
)


def refuse_unsupported(spec: FineTuneJobSpec) -> None:
    """Raise UserError that names everything the job asks for and this release does not do."""
    sentences = [
        f"{field}{_shown(value)} is not supported yet: {limit.instead}."
        for limit in LIMITS
        for field, value, default in _values(spec, "", limit.field.split("."))
        if not limit.allows(value, default)
    ]
    if sentences:
        raise UserError(" ".join(sentences))


def _values(block: BaseModel, path: str, parts: list[str]) -> Iterator[tuple[str, object, object]]:
    """The values that stand at a path, each with its own path (`dataset.train[0].format`) and its default."""
    part, rest = parts[0], parts[1:]
    alias = part.removesuffix("[]")
    name, field = next((n, f) for n, f in type(block).model_fields.items() if (f.alias or n) == alias)
    value, here = getattr(block, name), f"{path}{alias}"
    if not rest:
        default = field.get_default(call_default_factory=True)
        yield here, value, None if default is PydanticUndefined else default
    elif part.endswith("[]"):
        for number, item in enumerate(value or []):
            yield from _values(item, f"{here}[{number}].", rest)
    elif value is not None:
        yield from _values(value, f"{here}.", rest)


def _shown(value: object) -> str:
    """The value as users wrote it, where it is short enough to be read; a block is named without what it holds."""
    if isinstance(value, Enum):
        return f" {value.value}"
    if isinstance(value, bool):
        return f" {str(value).lower()}"
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return _cut(", ".join(str(item) for item in value))
    return _cut(str(value)) if isinstance(value, str | int | float) else ""


def _cut(text: str) -> str:
    return f" {text}" if len(text) <= _SHOWN_CHARACTERS else f" {text[:_SHOWN_CHARACTERS]}…"
