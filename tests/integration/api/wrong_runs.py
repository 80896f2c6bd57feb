"""Wrong resources, checkpoints, evaluation, output, tracking and life cycle: what is wrong, the change, and the words."""

from __future__ import annotations

from typing import Any

from tests.integration.api.wrong_training import VALIDATION, method

WRONG_RESOURCES: list[tuple[str, dict[str, Any], str]] = [
    ("memory with a space", {"resources__memory": "16 GB"}, "spec.resources.memory"),
    ("negative cores", {"resources__cpu": -1}, "spec.resources.cpu"),
    ("a label key with a space", {"resources__nodeSelector": {"a b": "c"}}, "keys must be qualified names"),
    (
        "a GPU without domain",
        {"resources__gpuResourceName": "gpu"},
        "resources.gpuResourceName must be an extended resource with its domain",
    ),
    ("cores as an extended resource", {"resources__extended": {"cpu": 4}}, "keys must be qualified names"),
    ("no piece of an extended resource", {"resources__extended": {"rdma/hca": 0}}, "spec.resources.extended"),
    (
        "GPUs twice",
        {"resources__extended": {"nvidia.com/gpu": 8}},
        "resources.extended names resources.gpuResourceName, whose number is parallelism.gpusPerNode",
    ),
    (
        "more shared memory than memory",
        {"resources": {"memory": "1Gi", "sharedMemory": "2Gi"}},
        "resources.sharedMemory counts in resources.memory and must be smaller",
    ),
    (
        "as much shared memory as memory, in other units",
        {"resources": {"memory": "1Gi", "sharedMemory": "1024Mi"}},
        "resources.sharedMemory counts in resources.memory",
    ),
    (
        "a toleration of nothing",
        {"resources__tolerations": [{"effect": "NoSchedule"}]},
        "tolerations: without key, operator must be Exists",
    ),
    (
        "a toleration of any value of one",
        {"resources__tolerations": [{"key": "gpu", "operator": "Exists", "value": "a"}]},
        "tolerations: operator Exists matches any value: remove value",
    ),
    (
        "a toleration for a while of what never moves",
        {"resources__tolerations": [{"key": "gpu", "effect": "NoSchedule", "tolerationSeconds": 9}]},
        "tolerations: tolerationSeconds is for effect NoExecute",
    ),
    ("a topology without label", {"resources__topologyKey": "a b"}, "spec.resources.topologyKey"),
    (
        "a runtime class in capitals",
        {"resources__runtimeClassName": "NVIDIA"},
        "spec.resources.runtimeClassName",
    ),
    ("a pod template", {"podTemplate": {"spec": {"hostNetwork": True}}}, 'unknown field "spec.podTemplate"'),
    ("a service account", {"serviceAccountName": "admin"}, 'unknown field "spec.serviceAccountName"'),
    (
        "volumes",
        {"resources__volumes": [{"hostPath": {"path": "/"}}]},
        'unknown field "spec.resources.volumes"',
    ),
    ("the host's network", {"resources__hostNetwork": True}, 'unknown field "spec.resources.hostNetwork"'),
]

WRONG_CHECKPOINTS: list[tuple[str, dict[str, Any], str]] = [
    (
        "checkpoints by steps and minutes",
        {"checkpoints": {"everySteps": 10, "everyMinutes": 5}},
        "checkpoints.everySteps and checkpoints.everyMinutes exclude each other",
    ),
    ("a checkpoint every zero steps", {"checkpoints__everySteps": 0}, "spec.checkpoints.everySteps"),
    ("no checkpoint kept", {"checkpoints__keepLast": 0}, "spec.checkpoints.keepLast"),
    (
        "a grace period by another word",
        {"checkpoints__gracePeriodSeconds": "Long"},
        "checkpoints.gracePeriodSeconds must be Auto or a number of seconds",
    ),
    (
        "a grace period of one second",
        {"checkpoints__gracePeriodSeconds": 1},
        "should be greater than or equal to 30",
    ),
]

WRONG_EVALUATION: list[tuple[str, dict[str, Any], str]] = [
    (
        "an unknown metric",
        {"evaluation__metrics": ["METEOR"], "dataset__validation": VALIDATION},
        'Unsupported value: "METEOR"',
    ),
    (
        "a metric twice",
        {"evaluation__metrics": ["BLEU", "BLEU"], "dataset__validation": VALIDATION},
        'Duplicate value: "BLEU"',
    ),
    (
        "metrics on training rows",
        {"evaluation__metrics": ["BLEU"]},
        "evaluation.metrics are measured on rows that were not trained on, but neither dataset.test nor dataset.validation is set",
    ),
    (
        "a minimum that is not measured",
        {"evaluation__minimum": {"accuracy": 0.85}},
        "evaluation.minimum.accuracy is about a metric that evaluation.metrics does not measure: add Accuracy to metrics",
    ),
    (
        "a minimal ROUGE that is not measured",
        {"evaluation__minimum": {"rouge": 0.3}},
        "evaluation.minimum.rouge is about a metric",
    ),
    (
        "a maximum that is not measured",
        {"evaluation__maximum": {"perplexity": 9}},
        "evaluation.maximum.perplexity is about a metric that evaluation.metrics does not measure",
    ),
    (
        "a latency that is not measured",
        {"evaluation__maximum": {"tokenMilliseconds": 200}},
        "add Latency to metrics",
    ),
    ("an accuracy in percent", {"evaluation__minimum": {"accuracy": 85}}, "spec.evaluation.minimum.accuracy"),
    (
        "a minimal perplexity",
        {"evaluation__minimum": {"perplexity": 3}},
        'unknown field "spec.evaluation.minimum.perplexity"',
    ),
    (
        "a choice among tokens without temperature",
        {"evaluation__generation": {"topP": 0.9}},
        "generation.topK and topP choose among likely tokens, but generation.temperature 0",
    ),
    ("no sample", {"evaluation__maxSamples": 0}, "spec.evaluation.maxSamples"),
]

WRONG_OUTPUT: list[tuple[str, dict[str, Any], str]] = [
    ("an output without uri", {"output": {}}, "spec.output.uri: Required value"),
    ("an output without scheme", {"output__uri": "models/bot"}, "output.uri must be s3://bucket/prefix"),
    ("an output on a hub", {"output__uri": "hf://org/bot"}, "output.uri must be s3://bucket/prefix"),
    ("a cache on a claim", {"output__cacheURI": "pvc://cache"}, "output.cacheURI must be s3://bucket/prefix"),
    (
        "a shard size in GiB",
        {"output__merged__maxShardSize": "5GiB"},
        "output.merged.maxShardSize must be a whole number",
    ),
    ("a copy of four letters", {"output__quantized": "GPTQ"}, 'Unsupported value: "GPTQ"'),
    (
        "a copy of what is not written",
        {"output__quantized": "NF4", "output__merged": {"enabled": False}},
        "output.quantized is a copy of the merged model, but output.merged.enabled is false",
    ),
    (
        "nothing left of the run",
        {"output__adapter": False, "output__merged": {"enabled": False}},
        "output.adapter and output.merged.enabled are both false",
    ),
    (
        "the best without validation",
        {"output__export": "Best"},
        "output.export Best is the checkpoint with the lowest validation loss, but dataset.validation is not set",
    ),
    (
        "the best that is not kept",
        {"output__export": "Best", "dataset__validation": VALIDATION, "checkpoints__keepBest": 0},
        "output.export Best exports a checkpoint that checkpoints.keepBest 0 does not keep",
    ),
    (
        "a merged prefix",
        {**method("PrefixTuning"), "output__merged": {"enabled": True}},
        "method.type PrefixTuning and PromptTuning cannot be merged, but output.merged.enabled is true",
    ),
    (
        "a merged prompt",
        {**method("PromptTuning"), "output__merged": {"enabled": True}},
        "method.type PrefixTuning and PromptTuning cannot be merged",
    ),
    (
        "a small copy of a prefix",
        {**method("PrefixTuning"), "output__quantized": "INT8"},
        "output.quantized is a copy of the merged model, which method.type PrefixTuning and PromptTuning do not have",
    ),
    (
        "a prompt without adapter",
        {**method("PromptTuning"), "output__adapter": False},
        "output.adapter false with method.type PrefixTuning or PromptTuning",
    ),
    (
        "an adapter of full training",
        {**method("Full"), "output__adapter": True},
        "output.adapter true with method.type Full: there is no adapter",
    ),
    (
        "full training without a model",
        {**method("Full"), "output__merged": {"enabled": False}},
        "output.merged.enabled false with method.type Full",
    ),
]

WRONG_TRACKING: list[tuple[str, dict[str, Any], str]] = [
    ("MLflow without server", {"tracking__mlflow": {}}, "spec.tracking.mlflow.uri: Required value"),
    (
        "a password in a server's URL",
        {"tracking__mlflow": {"uri": "https://me:secret@mlflow.example.com"}},
        "tracking uri must be the server's URL without user and password",
    ),
    (
        "event files on the node",
        {"tracking__tensorBoard": {"uri": "/logs"}},
        "tracking.tensorBoard.uri must be s3://bucket/prefix",
    ),
    (
        "a key in the object",
        {"tracking__wandb": {"apiKey": "0123"}},
        'unknown field "spec.tracking.wandb.apiKey"',
    ),
    (
        "a server of a tracker that is offline",
        {"tracking__swanLab": {"mode": "Offline", "uri": "https://swanlab.example.com"}},
        "tracking.swanLab.mode Offline reaches no server, but uri or secretRef names one",
    ),
    (
        "a key of a tracker that is offline",
        {"tracking__swanLab": {"mode": "Offline", "secretRef": {"name": "swanlab"}}},
        "remove tracking.swanLab.uri and secretRef, or set mode: Cloud",
    ),
    ("an unknown tracker", {"tracking__comet": {}}, 'unknown field "spec.tracking.comet"'),
]

WRONG_LIFE_CYCLE: list[tuple[str, dict[str, Any], str]] = [
    (
        "a model that erases itself",
        {"ttlSecondsAfterFinished": 60, "deletionPolicy": "Delete"},
        "ttlSecondsAfterFinished with deletionPolicy Delete would erase the model",
    ),
    (
        "a priority without queue",
        {"workloadPriorityClassName": "high"},
        "workloadPriorityClassName orders the jobs of a queue and needs queueName",
    ),
    ("a queue with a dot", {"queueName": "team.a"}, "queueName must be the name of a LocalQueue"),
    ("a negative retry", {"retry": -1}, "spec.retry"),
    ("an end after training", {"stopAfter": "Train"}, 'Unsupported value: "Train"'),
    (
        "an earlier run without its uid",
        {"resumeFrom": {"run": "bot"}},
        "resumeFrom.run must be <name>-<first eight of the uid>",
    ),
    ("a negative time to live", {"ttlSecondsAfterFinished": -1}, "spec.ttlSecondsAfterFinished"),
    (
        "a deadline of nothing",
        {"failurePolicy__activeDeadlineSeconds": 0},
        "spec.failurePolicy.activeDeadlineSeconds",
    ),
    (
        "an image with a space",
        {"image": "trainer 2"},
        "image must be a container image reference without spaces",
    ),
    ("an unknown policy", {"failurePolicy__onOutOfMemory": "Ignore"}, 'Unsupported value: "Ignore"'),
    (
        "a library to load first",
        {"env": [{"name": "LD_PRELOAD", "value": "/tmp/x.so"}]},
        "env name must be of the allow-list",
    ),
    (
        "code on Python's path",
        {"env": [{"name": "PYTHONPATH", "value": "/tmp"}]},
        "env name must be of the allow-list",
    ),
    (
        "a secret's variable",
        {"env": [{"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}]},
        "env name must be of the allow-list",
    ),
    (
        "a plugin for NCCL",
        {"env": [{"name": "NCCL_NET_PLUGIN", "value": "/tmp/x.so"}]},
        "env name belongs to a variable by which a library loads code or opens a file",
    ),
    (
        "a file for NCCL",
        {"env": [{"name": "NCCL_TOPO_FILE", "value": "/etc/passwd"}]},
        "env name belongs to a variable by which a library loads code or opens a file",
    ),
    (
        "modules for UCX",
        {"env": [{"name": "UCX_MODULE_DIR", "value": "/tmp"}]},
        "env name belongs to a variable by which a library loads code or opens a file",
    ),
    (
        "a variable twice",
        {"env": [{"name": "TZ", "value": "UTC"}, {"name": "TZ", "value": "CET"}]},
        "Duplicate value",
    ),
    (
        "a variable from a secret",
        {"env": [{"name": "TZ", "value": "", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}]},
        'unknown field "spec.env[0].valueFrom"',
    ),
    (
        "65 variables",
        {"env": [{"name": f"NCCL_A{number}", "value": ""} for number in range(65)]},
        "must have at most 64 items",
    ),
]
