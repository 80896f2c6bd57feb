"""Rules that blocks of the spec make together: what does not fit is refused at apply, with the two fields and the way out.

The pairs that peft, DeepSpeed or bitsandbytes cannot do, or that nobody has shown to give the right result, stand here
until they are shown; a pair within one block stands with that block.
"""

from __future__ import annotations

from finetune_api.base import CelRule

_SPLITS = (
    "(self.parallelism.strategy in ['ZeRO1', 'ZeRO2', 'ZeRO3', 'FSDP'] || self.parallelism.offload != 'None')"
)
# Parameters are offloaded by ZeRO3 and FSDP only, so with strategy Auto that is what it becomes.
_SPLITS_PARAMETERS = (
    "(self.parallelism.strategy in ['ZeRO3', 'FSDP'] || self.parallelism.offload == 'OptimizerAndParameters')"
)
_VIRTUAL_TOKENS = "self.method.type in ['PrefixTuning', 'PromptTuning']"
_HAS_LORA = "has(self.method.lora)"
_INT8 = "(has(self.method.quantization) && self.method.quantization.type == 'INT8')"
_ON_CPU = "self.parallelism.gpusPerNode == 0"
_HAS_VALIDATION = "has(self.dataset.validation)"
_HAS_OUTPUT = "has(self.output)"
_CLASSIFIES = "self.task == 'SequenceClassification'"
_TEXT_METRICS = "['Perplexity', 'ExactMatch', 'BLEU', 'ChrF', 'ROUGE']"


def _refuse(condition: str, message: str) -> CelRule:
    return CelRule(f"!({condition})", message)


TASK_RULES = (
    CelRule(
        f"has(self.labels) == ({_CLASSIFIES})",
        "labels and task: SequenceClassification belong together: name the classes in labels, or set task: CausalLM and remove labels",
    ),
    _refuse(
        f"{_CLASSIFIES} && !self.dataset.train.all(source, source.format in ['Auto', 'Classification'])",
        "task SequenceClassification learns rows of format Classification, but a dataset.train source has another format: set format: "
        "Classification, or task: CausalLM",
    ),
    _refuse(
        f"{_CLASSIFIES} && (has(self.dataset.systemPrompt) || has(self.dataset.chatTemplate) || self.dataset.lossOn == 'All')",
        "task SequenceClassification reads texts, not conversations: remove dataset.systemPrompt, dataset.chatTemplate and dataset.lossOn, or "
        "set task: CausalLM",
    ),
    _refuse(
        f"{_CLASSIFIES} && self.training.packing == 'Enabled'",
        "training.packing Enabled does not work with task SequenceClassification, which reads one token of each row: set packing: Auto",
    ),
    _refuse(
        f"{_CLASSIFIES} && self.evaluation.metrics.exists(metric, metric in {_TEXT_METRICS})",
        "task SequenceClassification generates no text, so evaluation.metrics cannot hold Perplexity, ExactMatch, BLEU, ChrF or ROUGE: remove "
        "them, or set task: CausalLM",
    ),
    _refuse(
        f"!({_CLASSIFIES}) && has(self.training.earlyStopping) && self.training.earlyStopping.metric != 'ValidationLoss'",
        "training.earlyStopping.metric Accuracy and F1 are for task SequenceClassification: set metric: ValidationLoss",
    ),
)

METHOD_RULES = (
    _refuse(
        f"self.method.type == 'QLoRA' && {_SPLITS_PARAMETERS}",
        "method.type QLoRA with parallelism.strategy ZeRO3 or FSDP (or offload OptimizerAndParameters, which needs them): quantized weights "
        "cannot be split up; set strategy: DDP or ZeRO2, or type: LoRA",
    ),
    _refuse(
        f"{_INT8} && {_SPLITS}",
        "method.quantization.type INT8 with parallelism.strategy ZeRO or FSDP (or offload, which needs them) is not supported: set type: NF4, "
        "or strategy: DDP and offload: None",
    ),
    _refuse(
        f"{_HAS_LORA} && self.method.lora.variant == 'DoRA' && {_SPLITS_PARAMETERS}",
        "method.lora.variant DoRA with parallelism.strategy ZeRO3 or FSDP (or offload OptimizerAndParameters, which needs them): the norms of "
        "split weights are not known; set variant: Standard, or strategy: ZeRO2",
    ),
    _refuse(
        f"{_HAS_LORA} && self.method.lora.variant == 'PiSSA' && {_SPLITS_PARAMETERS}",
        "method.lora.variant PiSSA with parallelism.strategy ZeRO3 or FSDP (or offload OptimizerAndParameters, which needs them): split weights "
        "have no singular vectors; set variant: Standard, or strategy: ZeRO2",
    ),
    _refuse(
        f"self.method.type == 'AdaLoRA' && {_SPLITS}",
        "method.type AdaLoRA with parallelism.strategy ZeRO or FSDP (or offload, which needs them): ranks are chosen by gradients that are "
        "gone after the step; set strategy: DDP and offload: None, or type: LoRA",
    ),
    _refuse(
        "self.method.type == 'PrefixTuning' && self.training.gradientCheckpointing == 'Enabled'",
        "method.type PrefixTuning with training.gradientCheckpointing Enabled: the prefix would be lost when layers are computed again; set "
        "gradientCheckpointing: Auto",
    ),
    _refuse(
        f"{_VIRTUAL_TOKENS} && {_SPLITS_PARAMETERS}",
        "method.type PrefixTuning and PromptTuning with parallelism.strategy ZeRO3 or FSDP (or offload OptimizerAndParameters, which needs "
        "them) are not shown to train right: set strategy: DDP or ZeRO2",
    ),
    _refuse(
        f"{_VIRTUAL_TOKENS} && self.training.packing == 'Enabled'",
        "method.type PrefixTuning and PromptTuning with training.packing Enabled: packed rows would share virtual tokens; set packing: Auto",
    ),
    _refuse(
        f"{_VIRTUAL_TOKENS} && {_HAS_OUTPUT} && has(self.output.merged.enabled) && self.output.merged.enabled",
        "method.type PrefixTuning and PromptTuning cannot be merged, but output.merged.enabled is true: remove it; the adapter is the result",
    ),
    _refuse(
        f"{_VIRTUAL_TOKENS} && {_HAS_OUTPUT} && self.output.quantized != 'None'",
        "output.quantized is a copy of the merged model, which method.type PrefixTuning and PromptTuning do not have: set quantized: None",
    ),
    _refuse(
        f"{_VIRTUAL_TOKENS} && {_HAS_OUTPUT} && has(self.output.adapter) && !self.output.adapter",
        "output.adapter false with method.type PrefixTuning or PromptTuning: the adapter is all there is; remove output.adapter",
    ),
    _refuse(
        f"self.method.type == 'Full' && {_HAS_OUTPUT} && has(self.output.adapter) && self.output.adapter",
        "output.adapter true with method.type Full: there is no adapter, the whole model is in merged/; remove output.adapter",
    ),
    _refuse(
        f"self.method.type == 'Full' && {_HAS_OUTPUT} && has(self.output.merged.enabled) && !self.output.merged.enabled",
        "output.merged.enabled false with method.type Full: the whole model is in merged/, so nothing would be left; remove output.merged.enabled",
    ),
    _refuse(
        "has(self.model.adapterSource) && self.method.type == 'Full'",
        "model.adapterSource goes on from an adapter, but method.type Full trains the whole model: remove adapterSource, or set the adapter's type",
    ),
    _refuse(
        f"has(self.model.adapterSource) && {_HAS_LORA} && self.method.lora.variant == 'PiSSA'",
        "model.adapterSource goes on from an adapter, but method.lora.variant PiSSA starts a new one from the base model's weights: remove one of them",
    ),
    _refuse(
        "has(self.model.adapterSource) && has(self.resumeFrom)",
        "model.adapterSource and resumeFrom both say where training starts: resumeFrom goes on from an earlier run with its optimizer, "
        "adapterSource begins anew from its weights; remove one of them",
    ),
)

TRAINING_RULES = (
    _refuse(
        f"self.training.optimizer != 'AdamW' && {_SPLITS}",
        "training.optimizer AdamW8bit and PagedAdamW8bit with parallelism.strategy ZeRO or FSDP (or offload, which needs them): 8-bit state "
        "cannot be split up; set optimizer: AdamW, or strategy: DDP and offload: None",
    ),
    _refuse(
        f"self.training.optimizer == 'PagedAdamW8bit' && {_ON_CPU}",
        "training.optimizer PagedAdamW8bit pages GPU memory, but parallelism.gpusPerNode is 0: set optimizer: AdamW, or gpusPerNode",
    ),
    _refuse(
        f"self.training.precision == 'FP16' && {_ON_CPU}",
        "training.precision FP16 needs GPUs, but parallelism.gpusPerNode is 0: set precision: Auto, or gpusPerNode",
    ),
    _refuse(
        f"self.training.precision == 'FP16' && {_SPLITS}",
        "training.precision FP16 with parallelism.strategy ZeRO or FSDP (or offload, which needs them): its loss scaling is not shown there; "
        "set precision: BF16, or strategy: DDP and offload: None",
    ),
    _refuse(
        f"has(self.method.quantization) && self.method.quantization.computeType == 'FP16' && {_ON_CPU}",
        "method.quantization.computeType FP16 needs GPUs, but parallelism.gpusPerNode is 0: set computeType: Auto, or gpusPerNode",
    ),
    _refuse(
        "has(self.training.globalBatchTokens) && !self.dataset.train.all(source, source.format == 'Text')",
        "training.globalBatchTokens counts tokens of running text, so the format of every dataset.train source must be Text: set format: Text, "
        "or globalBatchSize instead of globalBatchTokens",
    ),
    _refuse(
        f"has(self.training.earlyStopping) && !{_HAS_VALIDATION}",
        "training.earlyStopping watches the validation rows, but dataset.validation is not set: set dataset.validation.fraction or sources, or "
        "remove earlyStopping",
    ),
    _refuse(
        f"has(self.training.evaluationSteps) && !{_HAS_VALIDATION}",
        "training.evaluationSteps says when the validation rows are looked at, but dataset.validation is not set: set "
        "dataset.validation.fraction or sources, or remove evaluationSteps",
    ),
)

OUTPUT_RULES = (
    _refuse(
        f"{_HAS_OUTPUT} && self.output.export == 'Best' && !{_HAS_VALIDATION}",
        "output.export Best is the checkpoint with the lowest validation loss, but dataset.validation is not set: set "
        "dataset.validation.fraction or sources, or export: Last",
    ),
    _refuse(
        f"{_HAS_OUTPUT} && self.output.export == 'Best' && self.checkpoints.keepBest == 0",
        "output.export Best exports a checkpoint that checkpoints.keepBest 0 does not keep: set keepBest: 1, or export: Last",
    ),
    _refuse(
        f"self.evaluation.metrics.size() > 0 && !has(self.dataset.test) && !{_HAS_VALIDATION}",
        "evaluation.metrics are measured on rows that were not trained on, but neither dataset.test nor dataset.validation is set: set one of "
        "them, or remove metrics",
    ),
    CelRule(
        "has(self.output) == has(oldSelf.output)",
        "output cannot be added or removed, because output.uri is where the run stands: create another FineTuneJob, or delete and re-apply this one",
    ),
)

LIFE_CYCLE_RULES = (
    CelRule(
        "self.retry >= oldSelf.retry",
        "retry counts how often a failed job was taken up again and cannot be lowered: raise it above its present value, or leave it",
    ),
    CelRule(
        "!has(self.ttlSecondsAfterFinished) || self.deletionPolicy != 'Delete'",
        "ttlSecondsAfterFinished with deletionPolicy Delete would erase the model on its own: remove one of them",
    ),
    CelRule(
        "!has(self.workloadPriorityClassName) || has(self.queueName)",
        "workloadPriorityClassName orders the jobs of a queue and needs queueName: set queueName or remove it",
    ),
)
