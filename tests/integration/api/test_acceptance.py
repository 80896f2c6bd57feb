"""Right jobs are accepted and stored with the defaults that the trainer and the operator parse."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from finetune_api.base import UNWRITTEN_KEY
from finetune_api.spec import FineTuneJobSpec
from tests.builders.jobs import make_manifest
from tests.integration.api.wrong_data import ROWS, classification, train
from tests.integration.api.wrong_training import VALIDATION, method, spread
from tests.integration.operator.api_client import FINETUNE, Api

STRICT = "dryRun=All&fieldValidation=Strict"


def stored_spec(api: Api, manifest: dict[str, Any]) -> dict[str, Any]:
    stored = api.send("POST", f"{api.path(FINETUNE, 'finetunejobs')}?{STRICT}", manifest)
    assert stored is not None
    spec: dict[str, Any] = stored["spec"]
    return spec


EVERYTHING: dict[str, Any] = {
    "task": "CausalLM",
    "model": {
        "source": "hf://Qwen/Qwen3-0.6B",
        "revision": "c1899de289a04d12100db370d81485cdf75e47ca",
        "tokenSecretRef": {"name": "hub"},
        "adapterSource": "s3://models/law/adapter",
        "store": {"endpoint": "https://s3.example.com", "caBundleRef": {"name": "ca"}},
    },
    "dataset": {
        "train": [
            {
                "source": ROWS,
                "format": "Alpaca",
                "columns": {"history": "earlier"},
                "weight": 2,
                "maxRows": 9,
            },
            {
                "source": "hf://org/rows",
                "split": "train",
                "subset": "zh",
                "revision": "v1",
                "tokenSecretRef": {"name": "hub"},
            },
            {"source": "pvc://data/rows/2025.jsonl", "format": "Dialogue"},
            {"source": "configMap://rows/a.jsonl", "format": "PromptCompletion"},
            {"inline": [{"messages": [{"role": "user", "content": "hi"}]}]},
        ],
        "validation": {"sources": [{"source": "modelscope://org/rows:default"}]},
        "test": [{"source": "s3://data/test/"}, {"source": "pvc://data/test/"}],
        "preparation": {
            "minLength": 4,
            "minCharacters": 2,
            "maxCharacters": 9000,
            "invalidRows": "Drop",
            "maxInvalidFraction": 0.01,
            "regex": [{"pattern": "<[^>]+>"}, {"pattern": "  +", "action": "Replace", "replacement": " "}],
            "redact": ["Email", "IDCard"],
            "duplicates": "MinHash",
            "duplicateThreshold": 0.8,
            "unicode": "NFKC",
            "fullWidth": "Narrow",
            "noise": ["ControlCharacters", "HTML", "Markup", "Symbols"],
            "leakage": "Fail",
            "augment": {
                "methods": ["Synonyms", "Reorder"],
                "wordList": "configMap://words/synonyms.txt",
            },
        },
        "systemPrompt": "Be brief.",
        "lossOn": "All",
    },
    "method": {
        "type": "LoRA",
        "lora": {"rank": 64, "alpha": 16, "variant": "RSLoRA", "fullyTrainedModules": ["self_attn"]},
    },
    "training": {
        "maxSteps": 100,
        "scheduler": "WarmupStableDecay",
        "warmupFraction": 0.1,
        "decayFraction": 0.2,
        "optimizer": "AdamW",
        "adamBetas": [0.9, 0.95],
        "globalBatchSize": 64,
        "microBatchTokens": 8192,
        "packing": "Enabled",
        "deterministic": True,
        "precision": "BF16",
        "gradientCheckpointing": "Enabled",
        "earlyStopping": {"patience": 5},
        "regularisation": {},
        "evaluationSteps": 10,
    },
    "parallelism": {
        "nodes": 2,
        "gpusPerNode": 8,
        "strategy": "ZeRO3",
        "offload": "OptimizerAndParameters",
        "deepspeed": {"reduceBucketSize": 1000, "pinMemory": True, "maxLiveParameters": 1000},
    },
    "resources": {
        "extended": {"rdma/hca": 1},
        "nodeSelector": {"gpu": "h100"},
        "tolerations": [{"operator": "Exists"}],
        "topologyKey": "topology.kubernetes.io/zone",
        "priorityClassName": "high",
        "runtimeClassName": "nvidia",
    },
    "checkpoints": {"everyMinutes": 30, "keepBest": 2, "onPreemption": False, "gracePeriodSeconds": 300},
    "evaluation": {
        "metrics": ["Perplexity", "ROUGE", "Latency"],
        "minimum": {"rouge": 0.3},
        "maximum": {"perplexity": 9, "firstTokenMilliseconds": 500},
        "generation": {"temperature": 0.7, "topK": 50},
    },
    "output": {
        "uri": "s3://models/bot",
        "cacheURI": "s3://models/cache",
        "export": "Best",
        "adapter": True,
        "merged": {"enabled": True, "verify": True},
        "quantized": "INT8",
    },
    "tracking": {
        "tensorBoard": {},
        "swanLab": {"project": "bots", "secretRef": {"name": "swanlab"}},
        "mlflow": {"uri": "https://mlflow.example.com"},
        "wandb": {"entity": "team"},
    },
    "failurePolicy": {"maxRestarts": 9, "pendingDeadlineSeconds": 600, "activeDeadlineSeconds": 86400},
    "queueName": "team-a",
    "workloadPriorityClassName": "high",
    "ttlSecondsAfterFinished": 3600,
    "image": "registry.example.com/trainer:2",
    "imagePullSecrets": [{"name": "registry"}],
    "env": [{"name": "NCCL_DEBUG", "value": "INFO"}, {"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
}

RIGHT: list[tuple[str, dict[str, Any]]] = [
    ("the shortest job", {}),
    ("a job with everything", EVERYTHING),
    ("a job without output, for the default store", {"output": ...}),
    ("a model of ModelScope", {"model": {"source": "modelscope://Qwen/Qwen2-0.5B"}}),
    ("a model on a claim", {"model": {"source": "pvc://models/qwen3/base"}}),
    ("classification by a head", classification(**train(format="Classification"))),
    (
        "classification with early stopping by F1",
        classification(dataset__validation=VALIDATION, training__earlyStopping={"metric": "F1"}),
    ),
    ("balanced classes", classification(dataset__preparation__balance={"maxRatio": 3})),
    (
        "fewer rows of the large classes",
        classification(dataset__preparation__balance={"method": "Downsample"}),
    ),
    ("a data set of a hub with its configuration", train(source="hf://org/rows:20231101.zh-min-nan")),
    (
        "the parquet branch of a data set",
        train(source="hf://org/rows", revision="refs/convert/parquet", split="train_sft"),
    ),
    ("a folder of rows in the store", train(source="s3://data/2025/10")),
    ("a folder of rows on a claim", train(source="pvc://data/rows")),
    (
        "synonyms of a list in the store",
        {"dataset__preparation__augment": {"methods": ["Synonyms"], "wordList": "s3://data/synonyms.txt"}},
    ),
    ("another order of sentences", {"dataset__preparation__augment": {"methods": ["Reorder"]}}),
    ("the shortest row as long as the longest may be", {"dataset__preparation__minLength": 1024}),
    (
        "a shortest row beyond the default of the longest",
        {"dataset__preparation": {"minLength": 2048, "maxLength": 4096}},
    ),
    ("invalid rows dropped up to the default share", {"dataset__preparation__invalidRows": "Drop"}),
    ("classes written as text", train(format="Classification")),
    ("tokens in a batch of text", {"training__globalBatchTokens": 65536, **train(format="Text")}),
    ("micro-batches that the trainer chooses", {"training__microBatchTokens": "Auto"}),
    ("a grace period that the operator chooses", {"checkpoints__gracePeriodSeconds": "Auto"}),
    ("full training with ZeRO-3", {**method("Full"), **spread("ZeRO3")}),
    ("full training with offload by FSDP", {**method("Full"), **spread("FSDP", "OptimizerAndParameters")}),
    ("full training, and a small copy", {**method("Full"), "output__quantized": "NF4"}),
    ("QLoRA with ZeRO-2", {**method("QLoRA"), **spread("ZeRO2")}),
    ("QLoRA of eight bits", method("QLoRA", quantization={"type": "INT8"})),
    ("QLoRA with a trained head", method("QLoRA", lora={"fullyTrainedModules": ["lm_head"]})),
    ("QLoRA on the CPU", {**method("QLoRA"), "parallelism__gpusPerNode": 0}),
    ("DoRA with ZeRO-2", {**method("LoRA", lora={"variant": "DoRA"}), **spread("ZeRO2")}),
    ("PiSSA on eight GPUs", {**method("LoRA", lora={"variant": "PiSSA"}), **spread("DDP")}),
    ("AdaLoRA", method("AdaLoRA", adaLora={"initialRank": 16})),
    ("AdaLoRA on eight GPUs", {**method("AdaLoRA"), **spread("DDP")}),
    (
        "IA3 on modules of its own",
        method("IA3", ia3={"targetModules": ["k_proj", "down_proj"], "feedforwardModules": ["down_proj"]}),
    ),
    ("prefix tuning", method("PrefixTuning", prefixTuning={"projection": True, "projectionHiddenSize": 256})),
    (
        "prompt tuning from words",
        method("PromptTuning", promptTuning={"init": "Text", "initText": "Classify:"}),
    ),
    ("a prompt that says it is not merged", {**method("PromptTuning"), "output__merged": {"enabled": False}}),
    ("an 8-bit optimizer on eight GPUs", {"training__optimizer": "AdamW8bit", **spread("DDP")}),
    ("shared memory a little below memory", {"resources": {"memory": "1Gi", "sharedMemory": "1023Mi"}}),
    ("memory in bytes", {"resources": {"memory": 8_000_000_000, "cpu": 2}}),
    ("a job that stops after prepare", {"stopAfter": "Prepare"}),
    ("a job that goes on from an earlier run", {"resumeFrom": {"run": "bot-0123abcd"}}),
    ("256 rows in the object", {"dataset__train": [{"inline": [{"text": "x" * 200}] * 256}]}),
]


@pytest.mark.parametrize("changes", [pytest.param(changes, id=name) for name, changes in RIGHT])
def test_a_right_job_is_stored_with_the_defaults_of_the_models(api: Api, changes: dict[str, Any]) -> None:
    manifest = make_manifest(**changes)
    has_output = changes.get("output") is not ...
    # Without output the operator fills it in before it parses the spec.
    filled_in = manifest["spec"] if has_output else {**manifest["spec"], "output": {"uri": "s3://models/bot"}}

    spec = stored_spec(api, manifest)

    parsed = FineTuneJobSpec.model_validate(filled_in)
    expected = written(parsed)
    assert as_text(spec) == as_text(
        expected if has_output else {k: v for k, v in expected.items() if k != "output"}
    )
    assert (
        FineTuneJobSpec.model_validate({**spec, "output": spec.get("output", filled_in["output"])}) == parsed
    )


def written(model: BaseModel) -> dict[str, Any]:
    """What of a model the API server writes: no nulls, and no default that is marked as unwritten."""
    content: dict[str, Any] = {}
    for name, field in type(model).model_fields.items():
        is_unwritten = isinstance(field.json_schema_extra, dict) and UNWRITTEN_KEY in field.json_schema_extra
        value = getattr(model, name)
        if value is not None and (name in model.model_fields_set or not is_unwritten):
            content[field.alias or name] = _written(value)
    return content


def _written(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return written(value)
    return [_written(item) for item in value] if isinstance(value, list) else value


# `Auto` is None in memory, and quantities are text: both are what they were when they were written.
def as_text(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: as_text(item)
            for key, item in value.items()
            if item != "Auto" or key not in ("microBatchTokens", "gracePeriodSeconds")
        }
    if isinstance(value, list):
        return [as_text(item) for item in value]
    return value if isinstance(value, bool) else str(float(value)) if _is_number(value) else str(value)


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def test_unknown_fields_are_dropped_where_nobody_asks_for_strictness(api: Api) -> None:
    stored = api.send(
        "POST", f"{api.path(FINETUNE, 'finetunejobs')}?dryRun=All", make_manifest(trainning={"epochs": 3})
    )

    assert stored is not None
    assert "trainning" not in stored["spec"]
