"""What of the API the trainer refuses, and that nothing of it can be forgotten."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from enum import Enum
from typing import Any

import pytest
from pydantic import BaseModel

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.errors import UserError
from finetune_trainer.support import LIMITS, refuse_unsupported
from tests.builders.jobs import make_manifest

# Fields of which every value is done, by the trainer …
STORE = ("endpoint", "region", "caBundleRef.name", "caBundleRef.key", "credentialsSecretRef.name")
SOURCES = ("dataset.train[]", "dataset.validation.sources[]", "dataset.test[]")
STORES = (
    "model.store", "output.store", "tracking.tensorBoard.store", *(f"{source}.store" for source in SOURCES),
)  # fmt: skip
SOURCE = (
    "source", "inline", "maxRows", "split", "subset", "revision", "weight", "tokenSecretRef.name", "tokenSecretRef.key",
)  # fmt: skip
COLUMNS = (
    "input", "target", "instruction", "output", "history", "prompt", "completion", "messages", "system", "text", "label",
)  # fmt: skip
PREPARATION = (
    "maxLength", "minLength", "minCharacters", "maxCharacters", "maxInvalidFraction", "regex[].pattern",
    "regex[].replacement", "duplicateThreshold", "balance.maxRatio", "augment.copies", "augment.fraction",
    "augment.wordList",
)  # fmt: skip
METHODS = {
    "lora": ("rank", "alpha", "dropout", "targetModules", "fullyTrainedModules"),
    "quantization": ("doubleQuantization",),
    "adaLora": (
        "initialRank", "targetRank", "alpha", "dropout", "targetModules", "initialFraction", "finalFraction",
        "intervalSteps", "beta1", "beta2", "orthogonalWeight",
    ),
    "ia3": ("targetModules", "feedforwardModules"),
    "prefixTuning": ("virtualTokens", "projection", "projectionHiddenSize"),
    "promptTuning": ("virtualTokens", "initText"),
}  # fmt: skip
DEEPSPEED = (
    "reduceBucketSize", "allgatherBucketSize", "overlapComm", "contiguousGradients", "reduceScatter",
    "roundRobinGradients", "subGroupSize", "prefetchBucketSize", "paramPersistenceThreshold", "maxLiveParameters",
    "maxReuseDistance", "pinMemory",
)  # fmt: skip
TRACKERS = {
    "tensorBoard": ("uri",),
    "swanLab": ("uri", "project", "workspace", "secretRef.name"),
    "mlflow": ("uri", "project", "secretRef.name"),
    "wandb": ("uri", "project", "entity", "secretRef.name"),
}
DONE_BY_TRAINER = frozenset(
    {
        *(f"{place}.{leaf}" for place in STORES for leaf in STORE),
        *(f"{source}.{leaf}" for source in SOURCES for leaf in SOURCE),
        *(f"{source}.columns.{column}" for source in SOURCES for column in COLUMNS),
        *(f"dataset.preparation.{leaf}" for leaf in PREPARATION),
        *(f"method.{method}.{leaf}" for method, leaves in METHODS.items() for leaf in leaves),
        *(f"parallelism.deepspeed.{leaf}" for leaf in DEEPSPEED),
        *(f"tracking.{tracker}.{leaf}" for tracker, leaves in TRACKERS.items() for leaf in leaves),
        "labels",
        "model.source",
        "model.adapterSource",
        "model.revision",
        "model.tokenSecretRef.name",
        "model.tokenSecretRef.key",
        "dataset.validation.fraction",
        "dataset.systemPrompt",
        "dataset.chatTemplate",
        "training.epochs",
        "training.maxSteps",
        "training.learningRate",
        "training.warmupSteps",
        "training.warmupFraction",
        "training.decayFraction",
        "training.deterministic",
        "training.earlyStopping.patience",
        "training.earlyStopping.minDelta",
        "training.evaluationSteps",
        "training.weightDecay",
        "training.maxGradNorm",
        "training.adamBetas",
        "training.globalBatchSize",
        "training.microBatchTokens",
        "training.seed",
        "training.loggingSteps",
        "parallelism.nodes",
        "parallelism.gpusPerNode",
        "checkpoints.everySteps",
        "checkpoints.everyMinutes",
        "checkpoints.keepLast",
        "checkpoints.keepBest",
        "output.store.encryption",
        "checkpoints.onPreemption",
        "output.adapter",
        "output.uri",
        "output.cacheURI",
        "output.merged.enabled",
        "output.merged.maxShardSize",
        "failurePolicy.stallTimeoutSeconds",
        "resumeFrom.run",
    }
)  # fmt: skip
# … and by the operator, which makes the pods and decides when they run.
DONE_BY_OPERATOR = frozenset(
    {
        *(
            f"resources.{leaf}"
            for leaf in (
                "gpuResourceName", "extended", "cpu", "memory", "ephemeralStorage", "sharedMemory", "nodeSelector",
                "tolerations[].key", "tolerations[].operator", "tolerations[].value", "tolerations[].effect",
                "tolerations[].tolerationSeconds", "topologyKey", "priorityClassName", "runtimeClassName",
                "prepare.cpu", "prepare.memory", "prepare.ephemeralStorage",
                "export.cpu", "export.memory", "export.ephemeralStorage",
            )
        ),
        "checkpoints.gracePeriodSeconds",
        "failurePolicy.maxRestarts",
        "failurePolicy.gangStartTimeoutSeconds",
        "failurePolicy.pendingDeadlineSeconds",
        "failurePolicy.activeDeadlineSeconds",
        "suspend",
        "retry",
        "queueName",
        "workloadPriorityClassName",
        "stopAfter",
        "ttlSecondsAfterFinished",
        "deletionPolicy",
        "image",
        "imagePullSecrets[].name",
        "env[].name",
        "env[].value",
    }
)  # fmt: skip


# --- nothing is forgotten ----------------------------------------------------------------------------------------


def inner_types(annotation: Any) -> Iterator[Any]:
    """What an annotation holds, without Optional, Annotated and list."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        yield from inner_types(typing.get_args(annotation)[0])
    elif origin in (typing.Union, types.UnionType, list, tuple):
        for part in typing.get_args(annotation):
            yield from inner_types(part)
    elif annotation is not type(None):
        yield annotation


def leaves(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, type | None]]:
    """Every field that holds a value and no block: its path, and its enumeration where it has one."""
    for name, field in model.model_fields.items():
        kinds = list(inner_types(field.annotation))
        is_list = "list[" in str(field.annotation)
        here = path + (field.alias or name)
        blocks = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        words = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Enum)]
        for block in blocks:
            yield from leaves(block, f"{here}{'[]' if is_list else ''}.")
        if not blocks:
            yield here, words[0] if words else None


LEAVES = dict(leaves(FineTuneJobSpec))
LIMITED = {limit.field for limit in LIMITS}


def is_limited(path: str) -> bool:
    return any(path == field or path.startswith((f"{field}.", f"{field}[]")) for field in LIMITED)


def test_every_field_is_done_or_refused() -> None:
    done = DONE_BY_TRAINER | DONE_BY_OPERATOR
    assert len(LEAVES) > 150, "the walk finds the whole API"
    assert [path for path in LEAVES if path not in done and not is_limited(path)] == []


def test_no_field_is_both_done_and_refused() -> None:
    assert [path for path in DONE_BY_TRAINER | DONE_BY_OPERATOR if is_limited(path)] == []
    assert not DONE_BY_TRAINER & DONE_BY_OPERATOR


def test_lists_name_fields_that_exist() -> None:
    assert (DONE_BY_TRAINER | DONE_BY_OPERATOR) - LEAVES.keys() == set()
    known = {path.replace("[]", "") for path in LEAVES}
    for field in LIMITED:
        plain = field.replace("[]", "")
        assert any(path == plain or path.startswith(f"{plain}.") for path in known), field


def test_words_that_the_trainer_reads_are_listed_one_by_one() -> None:
    """So that a new word of an old field is refused until somebody has done it."""
    assert [path for path, words in LEAVES.items() if words and path in DONE_BY_TRAINER] == []


# --- what is refused ---------------------------------------------------------------------------------------------


def spec_with(**changes: Any) -> FineTuneJobSpec:
    return FineTuneJobSpec.model_validate(make_manifest(**changes)["spec"])


def train_with(**fields: Any) -> dict[str, Any]:
    return {"dataset__train": [{"source": "s3://data/a.jsonl"}, {"source": "s3://data/b.jsonl", **fields}]}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "code of the model's own": (
        {"model__trustRemoteCode": True},
        "model.trustRemoteCode true is not supported yet: set false; only architectures that transformers itself knows",
    ),
    "a batch in tokens": (
        {"training__globalBatchTokens": 4096},
        "training.globalBatchTokens 4096 is not supported yet: set training.globalBatchSize, in rows, instead.",
    ),
    "what the base knew": (
        {"training__regularisation": {}},
        "training.regularisation is not supported yet: remove it.",
    ),
    "metrics": (
        {"evaluation": {"metrics": ["BLEU"], "minimum": {"bleu": 20}}},
        "evaluation.metrics BLEU is not supported yet: remove it. evaluation.minimum is not supported yet",
    ),
    "the best state": ({"output__export": "Best"}, "output.export Best is not supported yet: set Last"),
    "no verification": ({"output__merged": {"verify": False}}, "output.merged.verify false is not supported yet"),
    "a quantized copy": ({"output__quantized": "NF4"}, "output.quantized NF4 is not supported yet: set None"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_asked_for_and_not_done_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as refusal:
        refuse_unsupported(spec_with(**changes))
    assert sentence in refusal.value.message


def test_everything_is_named_at_once() -> None:
    with pytest.raises(UserError) as refusal:
        refuse_unsupported(spec_with(output__export="Best", output__quantized="INT8"))
    assert refusal.value.message.count("is not supported yet") == 2


def test_a_long_value_is_cut() -> None:
    metrics = [
        "Perplexity",
        "Accuracy",
        "F1",
        "AUC",
        "ExactMatch",
        "BLEU",
        "ChrF",
        "ROUGE",
        "Latency",
        "Robustness",
    ]
    with pytest.raises(UserError) as refusal:
        refuse_unsupported(spec_with(evaluation__metrics=metrics))
    assert refusal.value.message.endswith("ROUGE… is not supported yet: remove it.")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"training": {}, "parallelism": {}, "checkpoints": {}, "evaluation": {}, "tracking": {}},
        {"training__packing": "Disabled", "training__gradientCheckpointing": "Enabled"},
        {"training__scheduler": "WarmupStableDecay", "training__precision": "FP16", "training__decayFraction": 0.2},
        {"training__optimizer": "PagedAdamW8bit", "training__deterministic": True, "training__adamBetas": [0.8, 0.9]},
        {"training__earlyStopping": {"metric": "F1"}, "training__evaluationSteps": 10},
        {"parallelism": {"strategy": "ZeRO3", "nodes": 4, "offload": "OptimizerAndParameters", "deepspeed": {}}},
        {"method__type": "Full", "output__adapter": False},
        {"method__type": "QLoRA", "method__quantization": {"type": "INT8", "computeType": "FP16"}},
        {"method__lora": {"variant": "DoRA", "fullyTrainedModules": ["lm_head"]}},
        {"method": {"type": "PromptTuning", "promptTuning": {"init": "Text", "initText": "Answer:"}}},
        {"model__adapterSource": "s3://models/a"},
        {"tracking": {"mlflow": {"uri": "https://mlflow.example.com"}, "swanLab": {"mode": "Offline"}}},
        {"task": "SequenceClassification", "labels": ["good", "bad"]},
        {"checkpoints": {"everyMinutes": 10, "onPreemption": False, "keepBest": 3}},
        {"dataset__train": [{"source": "configMap://rows/a.jsonl", "format": "InputTarget", "columns": {"input": "q"}}]},
        {"model__source": "hf://Qwen/Qwen3-0.6B", "output__cacheURI": "s3://models/cache"},
        train_with(source="hf://org/rows", split="train", format="Alpaca", weight=0.5),
        {"dataset__validation": {"fraction": 0.1}, "dataset__test": [{"source": "s3://data/t.jsonl", "format": "Text"}]},
        {"dataset__preparation": {"redact": ["Email"], "noise": ["HTML"], "regex": [{"pattern": "a"}], "unicode": "NFC"}},
        {"dataset__train": [{"inline": [{"question": "?", "answer": "!"}], "weight": 1.0}]},
        {"output__merged": {"enabled": False, "precision": "FP32"}, "output__store": {"addressing": "Path"}},
        {"failurePolicy": {"onOutOfMemory": "Fail"}, "stopAfter": "Prepare", "deletionPolicy": "Delete"},
        {"resumeFrom": {"run": "bot-01234567"}, "queueName": "gpus", "env": [{"name": "TZ", "value": "UTC"}]},
        {"method__lora": {"variant": "Standard"}, "evaluation": {"metrics": []}, "output__quantized": "None"},
    ],
    ids=str,
)  # fmt: skip
def test_defaults_and_what_is_done_are_never_refused(changes: dict[str, Any]) -> None:
    refuse_unsupported(spec_with(**changes))
