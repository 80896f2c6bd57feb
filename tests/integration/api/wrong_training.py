"""Wrong methods, training, parallelism and pairs of them: what is wrong, the change to a right job, and the API server's words."""

from __future__ import annotations

from typing import Any

VALIDATION = {"fraction": 0.1}


def method(type_: str, **settings: Any) -> dict[str, Any]:
    """The block `method` with its settings."""
    return {"method": {"type": type_, **settings}}


def spread(strategy: str = "Auto", offload: str = "None", **changes: Any) -> dict[str, Any]:
    """The block `parallelism` over eight GPUs."""
    return {"parallelism": {"gpusPerNode": 8, "strategy": strategy, "offload": offload, **changes}}


WRONG_METHODS: list[tuple[str, dict[str, Any], str]] = [
    ("no method", {"method": ...}, "spec.method: Required value"),
    ("a method in lower case", {"method__type": "lora"}, 'spec.method.type: Unsupported value: "lora"'),
    ("rank zero", {"method__lora__rank": 0}, "spec.method.lora.rank"),
    ("dropout of one", {"method__lora__dropout": 1}, "spec.method.lora.dropout"),
    ("an alpha of zero", {"method__lora__alpha": 0}, "spec.method.lora.alpha"),
    ("target modules as a word", {"method__lora__targetModules": "auto"}, "spec.method.lora.targetModules"),
    ("no target modules", {"method__lora__targetModules": []}, "spec.method.lora.targetModules"),
    (
        "a module named by an expression",
        {"method__lora__targetModules": [".*proj"]},
        "spec.method.lora.targetModules[0]",
    ),
    (
        "all layers and one more",
        {"method__lora__targetModules": ["auto", "lm_head"]},
        "lora.targetModules: auto already takes all layers and stands alone",
    ),
    ("an unknown variant", {"method__lora__variant": "LoRAPlus"}, 'Unsupported value: "LoRAPlus"'),
    (
        "a module with an adapter and trained whole",
        {"method__lora": {"targetModules": ["q_proj"], "fullyTrainedModules": ["q_proj"]}},
        "lora.fullyTrainedModules and lora.targetModules name the same module",
    ),
    (
        "LoRA settings for full training",
        method("Full", lora={"rank": 8}),
        "method.lora holds the settings of method.type LoRA or QLoRA",
    ),
    (
        "LoRA settings for IA3",
        method("IA3", lora={}),
        "method.lora holds the settings of method.type LoRA or QLoRA",
    ),
    (
        "AdaLoRA settings for LoRA",
        method("LoRA", adaLora={}),
        "method.adaLora holds the settings of method.type AdaLoRA",
    ),
    ("IA3 settings for LoRA", method("LoRA", ia3={}), "method.ia3 holds the settings of method.type IA3"),
    (
        "prefix settings for prompt tuning",
        method("PromptTuning", prefixTuning={}),
        "method.prefixTuning holds the settings of method.type PrefixTuning",
    ),
    (
        "prompt settings for prefix tuning",
        method("PrefixTuning", promptTuning={}),
        "method.promptTuning holds the settings of method.type PromptTuning",
    ),
    (
        "a quantized base for LoRA",
        method("LoRA", quantization={"type": "NF4"}),
        "method.quantization makes the base model small enough to train adapters on, which is method.type QLoRA",
    ),
    (
        "full training in eight bits",
        method("Full", quantization={"type": "INT8"}),
        "method.quantization makes the base model small enough",
    ),
    ("numbers of three bits", method("QLoRA", quantization={"type": "INT3"}), 'Unsupported value: "INT3"'),
    (
        "double quantization of eight bits",
        method("QLoRA", quantization={"type": "INT8", "doubleQuantization": True}),
        "quantization.doubleQuantization is for type NF4 and FP4, but quantization.type is INT8",
    ),
    (
        "PiSSA on quantized weights",
        method("QLoRA", lora={"variant": "PiSSA"}),
        "method.lora.variant PiSSA starts from the base model's weights, which method.type QLoRA has quantized",
    ),
    (
        "quantized layers trained whole",
        method("QLoRA", lora={"fullyTrainedModules": ["self_attn"]}),
        "with method.type QLoRA only embed_tokens and lm_head can be trained whole",
    ),
    (
        "ranks that grow",
        method("AdaLoRA", adaLora={"initialRank": 4, "targetRank": 8}),
        "adaLora.targetRank is larger than adaLora.initialRank",
    ),
    (
        "no steps for ranks to shrink in",
        method("AdaLoRA", adaLora={"initialFraction": 0.6, "finalFraction": 0.4}),
        "adaLora.initialFraction and adaLora.finalFraction together leave no steps",
    ),
    (
        "all AdaLoRA layers and one more",
        method("AdaLoRA", adaLora={"targetModules": ["q_proj", "auto"]}),
        "adaLora.targetModules: auto already takes all layers",
    ),
    (
        "IA3 modules by halves",
        method("IA3", ia3={"targetModules": ["k_proj"]}),
        "ia3.targetModules and ia3.feedforwardModules are chosen together",
    ),
    (
        "an IA3 feed-forward module that is no target",
        method("IA3", ia3={"targetModules": ["k_proj"], "feedforwardModules": ["down_proj"]}),
        "ia3.feedforwardModules names a module that ia3.targetModules does not",
    ),
    (
        "a projection's width without projection",
        method("PrefixTuning", prefixTuning={"projectionHiddenSize": 64}),
        "prefixTuning.projectionHiddenSize is the width of the projection",
    ),
    (
        "no virtual tokens",
        method("PrefixTuning", prefixTuning={"virtualTokens": 0}),
        "prefixTuning.virtualTokens",
    ),
    (
        "words that random numbers do not start from",
        method("PromptTuning", promptTuning={"initText": "Answer:"}),
        "promptTuning.initText and promptTuning.init: Text belong together",
    ),
    (
        "words to start from, and none",
        method("PromptTuning", promptTuning={"init": "Text"}),
        "promptTuning.initText and promptTuning.init: Text belong together",
    ),
]

WRONG_TRAINING: list[tuple[str, dict[str, Any], str]] = [
    ("an unknown block", {"trainning": {"epochs": 3}}, 'unknown field "spec.trainning"'),
    ("an unknown field", {"training__epoch": 3}, 'unknown field "spec.training.epoch"'),
    ("a learning rate as text", {"training__learningRate": "2e-4"}, "spec.training.learningRate"),
    ("a learning rate above one", {"training__learningRate": 2}, "spec.training.learningRate"),
    ("a learning rate of zero", {"training__learningRate": 0}, "spec.training.learningRate"),
    (
        "epochs and steps",
        {"training": {"epochs": 1, "maxSteps": 10}},
        "training.epochs and training.maxSteps exclude each other",
    ),
    (
        "two warm-ups",
        {"training": {"warmupSteps": 1, "warmupFraction": 0.1}},
        "training.warmupSteps and training.warmupFraction exclude each other",
    ),
    (
        "a warm-up longer than the run",
        {"training": {"warmupSteps": 11, "maxSteps": 10}},
        "training.warmupSteps is larger than training.maxSteps",
    ),
    ("a fraction of a step", {"training__maxSteps": 1.5}, "spec.training.maxSteps"),
    ("no row in a batch", {"training__globalBatchSize": 0}, "spec.training.globalBatchSize"),
    (
        "rows and tokens in a batch",
        {"training": {"globalBatchSize": 16, "globalBatchTokens": 4096}},
        "training.globalBatchSize and training.globalBatchTokens exclude each other",
    ),
    (
        "tokens in a batch of conversations",
        {"training__globalBatchTokens": 4096},
        "training.globalBatchTokens counts tokens of running text",
    ),
    ("an unknown scheduler", {"training__scheduler": "Polynomial"}, 'Unsupported value: "Polynomial"'),
    (
        "a decay of the cosine",
        {"training__decayFraction": 0.2},
        "training.decayFraction is for training.scheduler WarmupStableDecay",
    ),
    (
        "more warm-up and decay than steps",
        {"training": {"scheduler": "WarmupStableDecay", "decayFraction": 0.7, "warmupFraction": 0.5}},
        "training.warmupFraction and training.decayFraction together are more than all steps",
    ),
    ("an unknown optimizer", {"training__optimizer": "Lion"}, 'Unsupported value: "Lion"'),
    ("one beta", {"training__adamBetas": [0.9]}, "spec.training.adamBetas"),
    ("a beta of one", {"training__adamBetas": [0.9, 1]}, "spec.training.adamBetas[1]"),
    (
        "micro-batches by another word",
        {"training__microBatchTokens": "auto"},
        "training.microBatchTokens must be Auto or a number of tokens",
    ),
    (
        "micro-batches of four tokens",
        {"training__microBatchTokens": 4},
        "should be greater than or equal to 8",
    ),
    (
        "micro-batches of half a token more",
        {"training__microBatchTokens": 8.5},
        "spec.training.microBatchTokens",
    ),
    ("packing by a truth", {"training__packing": True}, "spec.training.packing"),
    ("an unknown precision", {"training__precision": "FP8"}, 'Unsupported value: "FP8"'),
    ("a seed of 33 bits", {"training__seed": 2**32}, "spec.training.seed"),
    ("no patience", {"training__earlyStopping": {"patience": 0}}, "spec.training.earlyStopping.patience"),
    (
        "early stopping without validation",
        {"training__earlyStopping": {}},
        "training.earlyStopping watches the validation rows, but dataset.validation is not set",
    ),
    (
        "evaluation steps without validation",
        {"training__evaluationSteps": 50},
        "training.evaluationSteps says when the validation rows are looked at, but dataset.validation is not set",
    ),
    ("an unknown regularisation", {"training__regularisation": {"type": "EWC"}}, 'Unsupported value: "EWC"'),
]

WRONG_PARALLELISM: list[tuple[str, dict[str, Any], str]] = [
    ("half a GPU", {"parallelism__gpusPerNode": 0.5}, "spec.parallelism.gpusPerNode"),
    ("a negative number of GPUs", {"parallelism__gpusPerNode": -1}, "spec.parallelism.gpusPerNode"),
    ("no nodes", {"parallelism__nodes": 0}, "spec.parallelism.nodes"),
    ("an unknown strategy", {"parallelism__strategy": "ZeRO4"}, 'Unsupported value: "ZeRO4"'),
    (
        "offload with DDP",
        spread("DDP", "Optimizer"),
        "parallelism.offload moves what ZeRO or FSDP has split up, but parallelism.strategy is DDP",
    ),
    (
        "parameters offloaded by ZeRO-2",
        spread("ZeRO2", "OptimizerAndParameters"),
        "parallelism.offload OptimizerAndParameters needs parallelism.strategy ZeRO3 or FSDP",
    ),
    (
        "half an offload by FSDP",
        spread("FSDP", "Optimizer"),
        "parallelism.strategy FSDP offloads parameters and optimizer only together",
    ),
    (
        "DeepSpeed's tuning with FSDP",
        spread("FSDP", deepspeed={"overlapComm": True}),
        "parallelism.deepspeed tunes ZeRO, but parallelism.strategy is DDP or FSDP",
    ),
    (
        "ZeRO-3's tuning with ZeRO-2",
        spread("ZeRO2", deepspeed={"maxLiveParameters": 1000}),
        "are for parallelism.strategy ZeRO3: set that strategy or remove them",
    ),
    (
        "pinned memory of nothing",
        spread("ZeRO2", deepspeed={"pinMemory": True}),
        "parallelism.deepspeed.pinMemory is about what parallelism.offload moves",
    ),
    (
        "DeepSpeed's whole configuration",
        spread("ZeRO2", deepspeed={"zero_optimization": {"stage": 2}}),
        'unknown field "spec.parallelism.deepspeed.zero_optimization"',
    ),
    (
        "a path for DeepSpeed",
        spread("ZeRO3", deepspeed={"nvmePath": "/etc"}),
        'unknown field "spec.parallelism.deepspeed.nvmePath"',
    ),
    (
        "QLoRA with ZeRO-3",
        {**method("QLoRA"), **spread("ZeRO3")},
        "method.type QLoRA with parallelism.strategy ZeRO3 or FSDP",
    ),
    (
        "QLoRA with FSDP",
        {**method("QLoRA"), **spread("FSDP")},
        "method.type QLoRA with parallelism.strategy ZeRO3 or FSDP",
    ),
    (
        "QLoRA with offloaded parameters",
        {**method("QLoRA"), **spread(offload="OptimizerAndParameters")},
        "method.type QLoRA with parallelism.strategy ZeRO3 or FSDP",
    ),
    (
        "eight bits with ZeRO-1",
        {**method("QLoRA", quantization={"type": "INT8"}), **spread("ZeRO1")},
        "method.quantization.type INT8 with parallelism.strategy ZeRO or FSDP",
    ),
    (
        "eight bits with offload",
        {**method("QLoRA", quantization={"type": "INT8"}), **spread(offload="Optimizer")},
        "method.quantization.type INT8 with parallelism.strategy ZeRO or FSDP",
    ),
    (
        "DoRA with ZeRO-3",
        {**method("LoRA", lora={"variant": "DoRA"}), **spread("ZeRO3")},
        "method.lora.variant DoRA with parallelism.strategy ZeRO3 or FSDP",
    ),
    (
        "PiSSA with FSDP",
        {**method("LoRA", lora={"variant": "PiSSA"}), **spread("FSDP")},
        "method.lora.variant PiSSA with parallelism.strategy ZeRO3 or FSDP",
    ),
    (
        "AdaLoRA with ZeRO-2",
        {**method("AdaLoRA"), **spread("ZeRO2")},
        "method.type AdaLoRA with parallelism.strategy ZeRO or FSDP",
    ),
    (
        "AdaLoRA with FSDP",
        {**method("AdaLoRA"), **spread("FSDP")},
        "method.type AdaLoRA with parallelism.strategy ZeRO or FSDP",
    ),
    (
        "virtual tokens with ZeRO-3",
        {**method("PromptTuning"), **spread("ZeRO3")},
        "method.type PrefixTuning and PromptTuning with parallelism.strategy ZeRO3 or FSDP",
    ),
    (
        "a prefix with FSDP",
        {**method("PrefixTuning"), **spread("FSDP")},
        "method.type PrefixTuning and PromptTuning with parallelism.strategy ZeRO3 or FSDP",
    ),
    (
        "virtual tokens with offloaded parameters",
        {**method("PromptTuning"), **spread("Auto", "OptimizerAndParameters")},
        "method.type PrefixTuning and PromptTuning with parallelism.strategy ZeRO3 or FSDP",
    ),
    (
        "an 8-bit optimizer with ZeRO-2",
        {"training__optimizer": "AdamW8bit", **spread("ZeRO2")},
        "training.optimizer AdamW8bit and PagedAdamW8bit with parallelism.strategy ZeRO or FSDP",
    ),
    (
        "a paged optimizer with FSDP",
        {"training__optimizer": "PagedAdamW8bit", **spread("FSDP")},
        "training.optimizer AdamW8bit and PagedAdamW8bit with parallelism.strategy ZeRO or FSDP",
    ),
    (
        "a paged optimizer on the CPU",
        {"training__optimizer": "PagedAdamW8bit", "parallelism__gpusPerNode": 0},
        "training.optimizer PagedAdamW8bit pages GPU memory, but parallelism.gpusPerNode is 0",
    ),
    (
        "FP16 on the CPU",
        {"training__precision": "FP16", "parallelism__gpusPerNode": 0},
        "training.precision FP16 needs GPUs, but parallelism.gpusPerNode is 0",
    ),
    (
        "FP16 with ZeRO",
        {"training__precision": "FP16", "parallelism__strategy": "ZeRO2"},
        "training.precision FP16 with parallelism.strategy ZeRO or FSDP (or offload, which needs them)",
    ),
    (
        "FP16 computing of quantized weights on the CPU",
        {**method("QLoRA", quantization={"computeType": "FP16"}), "parallelism__gpusPerNode": 0},
        "method.quantization.computeType FP16 needs GPUs, but parallelism.gpusPerNode is 0",
    ),
    (
        "a prefix with gradient checkpointing",
        {**method("PrefixTuning"), "training__gradientCheckpointing": "Enabled"},
        "method.type PrefixTuning with training.gradientCheckpointing Enabled",
    ),
    (
        "a packed prefix",
        {**method("PrefixTuning"), "training__packing": "Enabled"},
        "method.type PrefixTuning and PromptTuning with training.packing Enabled",
    ),
    (
        "packed prompt tuning",
        {**method("PromptTuning"), "training__packing": "Enabled"},
        "method.type PrefixTuning and PromptTuning with training.packing Enabled",
    ),
]
