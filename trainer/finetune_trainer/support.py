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
    Checksums,
    DataFormat,
    FineTuneJobSpec,
    InvalidRows,
    LoRAVariant,
    LossOn,
    MergedPrecision,
    MethodType,
    OnOutOfMemory,
    Overlong,
    Precision,
    Scheduler,
    Strategy,
    Switch,
)
from finetune_trainer.errors import UserError

_SHOWN_CHARACTERS = 60


@dataclass(frozen=True)
class Limit:
    """A field of which only some values are done: its default, `done`, and URIs that begin with one of `schemes`."""

    field: str
    instead: str
    done: Collection[object] = ()
    schemes: tuple[str, ...] = ()

    def allows(self, value: object, default: object) -> bool:
        """Whether this value may stand in the field."""
        if value == default or value in self.done:
            return True
        return isinstance(value, str) and bool(self.schemes) and value.startswith(self.schemes)


_UPLOAD_MODEL = "upload the model's folder to the store and name it as s3://bucket/prefix"
_UPLOAD_ROWS = "put the rows into a .jsonl file and name it as s3://bucket/key or configMap://name/key"
_REMOVE = "remove it"


def _store_limits(place: str) -> tuple[Limit, ...]:
    """Everything about a store is done; its words stand here because words are listed one by one."""
    return (
        Limit(f"{place}.addressing", "set Auto", done=tuple(Addressing)),
        Limit(f"{place}.checksums", "set WhenSupported", done=tuple(Checksums)),
    )


_TASK = (
    Limit("task", "set CausalLM"),
    Limit("labels", _REMOVE),
)
_MODEL = (
    Limit("model.source", _UPLOAD_MODEL, schemes=("s3://",)),
    Limit("model.revision", f"{_REMOVE}; {_UPLOAD_MODEL}"),
    Limit("model.tokenSecretRef", f"{_REMOVE}; {_UPLOAD_MODEL}"),
    Limit(
        "model.adapterSource",
        f"{_REMOVE} and start from the base model, or from an earlier run with resumeFrom",
    ),
    Limit(
        "model.trustRemoteCode", "set false; only architectures that transformers itself knows are trained"
    ),
    *_store_limits("model.store"),
)
_DATASET = (
    Limit("dataset.train[].source", _UPLOAD_ROWS, schemes=("s3://", "configMap://")),
    Limit(
        "dataset.train[].format",
        "convert the rows to Messages or InputTarget",
        done=(DataFormat.AUTO, DataFormat.MESSAGES, DataFormat.INPUT_TARGET),
    ),
    *(
        Limit(f"dataset.train[].columns.{column}", "name the column in the rows as the format expects")
        for column in (
            "instruction",
            "output",
            "history",
            "prompt",
            "completion",
            "messages",
            "system",
            "text",
            "label",
        )
    ),
    Limit("dataset.train[].split", _UPLOAD_ROWS),
    Limit("dataset.train[].subset", _UPLOAD_ROWS),
    Limit("dataset.train[].revision", _UPLOAD_ROWS),
    Limit("dataset.train[].tokenSecretRef", _UPLOAD_ROWS),
    Limit(
        "dataset.train[].weight", "set 1, and put rows that shall be seen more often into the source twice"
    ),
    *_store_limits("dataset.train[].store"),
    Limit("dataset.validation", f"{_REMOVE}, with training.earlyStopping and output.export: Best"),
    Limit("dataset.test", _REMOVE),
    Limit("dataset.lossOn", "set Assistant", done=tuple(LossOn)),
    Limit("dataset.preparation.overlong", "set Drop", done=tuple(Overlong)),
    Limit("dataset.preparation.invalidRows", "set Fail", done=tuple(InvalidRows)),
    Limit("dataset.preparation.minLength", "leave short rows out of the data"),
    Limit("dataset.preparation.minCharacters", "leave short rows out of the data"),
    Limit("dataset.preparation.maxCharacters", "set dataset.preparation.maxLength, in tokens, instead"),
    Limit("dataset.preparation.maxInvalidFraction", f"{_REMOVE}; the data report counts the rows left out"),
    Limit("dataset.preparation.regex", "clean the rows before they are uploaded"),
    Limit("dataset.preparation.redact", "redact the rows before they are uploaded"),
    Limit("dataset.preparation.duplicates", "set None, and remove duplicates before the rows are uploaded"),
    Limit("dataset.preparation.duplicateThreshold", _REMOVE),
    Limit("dataset.preparation.augment", _REMOVE),
    Limit("dataset.preparation.balance", _REMOVE),
)
_METHOD = (
    Limit("method.type", "set LoRA", done=(MethodType.LORA,)),
    Limit("method.lora.variant", "set Standard", done=(LoRAVariant.STANDARD,)),
    Limit("method.lora.fullyTrainedModules", _REMOVE),
    Limit("method.quantization", f"{_REMOVE}, with method.type: LoRA"),
    Limit("method.adaLora", f"{_REMOVE}, with method.type: LoRA"),
    Limit("method.ia3", f"{_REMOVE}, with method.type: LoRA"),
    Limit("method.prefixTuning", f"{_REMOVE}, with method.type: LoRA"),
    Limit("method.promptTuning", f"{_REMOVE}, with method.type: LoRA"),
)
_TRAINING = (
    Limit(
        "training.scheduler",
        "set Cosine, Linear or Constant",
        done=(Scheduler.COSINE, Scheduler.LINEAR, Scheduler.CONSTANT),
    ),
    Limit("training.decayFraction", f"{_REMOVE}, with scheduler: Cosine, Linear or Constant"),
    Limit("training.optimizer", "set AdamW"),
    Limit("training.globalBatchTokens", "set training.globalBatchSize, in rows, instead"),
    Limit("training.packing", "set Auto", done=(Switch.AUTO, Switch.ENABLED)),
    Limit("training.deterministic", "set false; on the CPU a run is exact anyway"),
    Limit("training.precision", "set BF16 or FP32", done=(Precision.AUTO, Precision.BF16, Precision.FP32)),
    Limit(
        "training.gradientCheckpointing",
        "set Auto, and lower training.microBatchTokens to save memory",
        done=(Switch.AUTO, Switch.DISABLED),
    ),
    Limit("training.earlyStopping", _REMOVE),
    Limit("training.regularisation", _REMOVE),
    Limit("training.evaluationSteps", _REMOVE),
)
_PARALLELISM = (
    Limit("parallelism.strategy", "set DDP", done=(Strategy.AUTO, Strategy.DDP)),
    Limit("parallelism.offload", "set None"),
    Limit("parallelism.deepspeed", _REMOVE),
)
_CHECKPOINTS = (
    Limit("checkpoints.keepBest", f"{_REMOVE}; checkpoints.keepLast says how many are kept", done=(0, 1)),
)
_EVALUATION = (
    Limit("evaluation.metrics", _REMOVE),
    Limit("evaluation.minimum", _REMOVE),
    Limit("evaluation.maximum", _REMOVE),
    Limit("evaluation.maxSamples", _REMOVE),
    Limit("evaluation.generation", _REMOVE),
)
_OUTPUT = (
    Limit("output.cacheURI", f"{_REMOVE}; prepared data are then shared below output.uri"),
    Limit("output.export", "set Last"),
    Limit("output.adapter", "set true; the adapter is always written"),
    Limit("output.merged.precision", "set Base", done=tuple(MergedPrecision)),
    Limit("output.merged.verify", "set true; a merged model is always verified"),
    Limit("output.quantized", "set None"),
    *_store_limits("output.store"),
)
_TRACKING = tuple(
    Limit(f"tracking.{tracker}", f"{_REMOVE}; the run's metrics.jsonl has every step")
    for tracker in ("tensorBoard", "swanLab", "mlflow", "wandb")
)
_FAILURE_POLICY = (Limit("failurePolicy.onOutOfMemory", "set Backoff", done=tuple(OnOutOfMemory)),)

LIMITS: tuple[Limit, ...] = (
    *_TASK,
    *_MODEL,
    *_DATASET,
    *_METHOD,
    *_TRAINING,
    *_PARALLELISM,
    *_CHECKPOINTS,
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
