"""README.md of adapter/ and merged/: where the model comes from and how to load it. Not part of any digest."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_api.job_file import JobFile
from finetune_api.spec import LoRAVariant, Method, MethodType, QuantizationType, Task
from finetune_api.termination import TrainedFacts
from finetune_trainer.deliverables import can_be_merged
from finetune_trainer.reloaded_adapter import AdapterCheck
from finetune_trainer.run_file import RunFile
from finetune_trainer.verification import LogitComparison

_LOAD_MERGED = """\
from transformers import {auto}, AutoTokenizer

model = {auto}.from_pretrained("path/to/merged")
tokenizer = AutoTokenizer.from_pretrained("path/to/merged")"""
_LOAD_ADAPTER = """\
from peft import PeftModel
from transformers import {auto}, AutoTokenizer

base = {auto}.from_pretrained("path/to/the/base/model"{arguments})
model = PeftModel.from_pretrained(base, "path/to/adapter")
tokenizer = AutoTokenizer.from_pretrained("path/to/adapter")"""

_LORA_VARIANTS = {
    LoRAVariant.STANDARD: "LoRA",
    LoRAVariant.RS_LORA: "rsLoRA",
    LoRAVariant.DORA: "DoRA",
    LoRAVariant.PISSA: "LoRA (PiSSA, exported as plain LoRA of twice the rank)",
}


@dataclass(frozen=True)
class Proof:
    """What was checked of the result: the merged model against what was trained, or the adapter loaded again."""

    comparison: LogitComparison | None = None
    adapter: AdapterCheck | None = None


def build_card(job: JobFile, run_file: RunFile, trained: TrainedFacts, proof: Proof, *, merged: bool) -> str:
    """Write the card of the merged model or of the adapter."""
    training, method = job.spec.training, job.spec.method
    facts = {
        "Base model": f"{run_file.model.described} ({run_file.model.architecture})",
        "Method": describe_method(method, run_file),
        "Went on from": run_file.adapter.described if run_file.adapter else "",
        "Task": _describe_task(job),
        "Base in training": _describe_quantization(method),
        "Data": f"{run_file.dataset.rows_used} rows, {run_file.dataset.learned_tokens} learned tokens",
        "Training": f"{trained.step} steps of {training.global_batch_size} rows, "
        f"learning rate {training.learning_rate:g}",
        "Loss of the last step": "not known" if trained.loss is None else f"{trained.loss:.4f}",
        "Run": job.layout.run_id,
        "Verified": _describe_proof(job, proof, merged=merged),
    }
    table = "\n".join(f"| {name} | {_cell(value)} |" for name, value in facts.items() if value)
    library = "transformers" if merged else "peft"
    return (
        f"---\nlibrary_name: {library}\n---\n\n# {job.name}\n\n"
        f"Made by finetune-operator from FineTuneJob `{job.namespace}/{job.name}`.\n\n"
        f"| | |\n|---|---|\n{table}\n\n```python\n{_loading_code(job, merged=merged)}\n```\n"
    )


def describe_method(method: Method, run_file: RunFile) -> str:
    """The method and the settings that decide what its result is."""
    layers = f"on {', '.join(run_file.model.target_modules)}"
    match method.type:
        case MethodType.FULL:
            return "Full fine-tuning: every weight was trained"
        case MethodType.LORA | MethodType.QLORA:
            lora = method.lora
            name = "QLoRA" if method.type is MethodType.QLORA else _LORA_VARIANTS[lora.variant]
            if method.type is MethodType.QLORA and lora.variant is not LoRAVariant.STANDARD:
                name = f"QLoRA ({_LORA_VARIANTS[lora.variant]})"
            whole = lora.fully_trained_modules
            rest = f"; trained whole: {', '.join(whole)}" if whole else ""
            return f"{name}, rank {lora.rank}, alpha {lora.alpha:g}, {layers}{rest}"
        case MethodType.ADA_LORA:
            ada = method.ada_lora
            return (
                f"AdaLoRA, rank {ada.initial_rank} shrunk to {ada.target_rank} on average, alpha {ada.alpha:g}, "
                f"{layers}"
            )
        case MethodType.IA3:
            return f"IA3, one factor for each activation, {layers}"
        case MethodType.PREFIX_TUNING:
            tokens = method.prefix_tuning.virtual_tokens
            return f"Prefix tuning, {tokens} virtual tokens in every layer"
        case MethodType.PROMPT_TUNING:
            tokens = method.prompt_tuning.virtual_tokens
            return f"Prompt tuning, {tokens} virtual tokens before the input"


def _describe_task(job: JobFile) -> str:
    if job.spec.task is not Task.SEQUENCE_CLASSIFICATION:
        return ""
    return f"Classification into {', '.join(job.spec.labels or [])}, in this order"


def _describe_quantization(method: Method) -> str:
    if method.type is not MethodType.QLORA:
        return ""
    kind = method.quantization.type
    bits = 8 if kind is QuantizationType.INT8 else 4
    return (
        f"quantized to {bits} bits ({kind.value}); a merged model is made from the unquantized base, and so is not "
        "exactly the model that was trained"
    )


def _describe_proof(job: JobFile, proof: Proof, *, merged: bool) -> str:
    if merged and (comparison := proof.comparison) is not None:
        what = "the trained weights" if job.spec.method.type is MethodType.FULL else "base + adapter"
        return (
            f"logits differ from those of {what} by at most {comparison.max_difference:.3g} on {comparison.rows} rows; "
            f"training itself changed them by up to {comparison.adapter_effect:.3g}"
        )
    if not merged and (check := proof.adapter) is not None:
        only = "" if can_be_merged(job.spec.method.type) else "; it cannot be merged into the base's weights"
        return f"loaded again, its {check.tensors} tensors are as trained, logits of {check.rows} rows finite{only}"
    return ""


def _loading_code(job: JobFile, *, merged: bool) -> str:
    classifies = job.spec.task is Task.SEQUENCE_CLASSIFICATION
    auto = "AutoModelForSequenceClassification" if classifies else "AutoModelForCausalLM"
    if merged:
        return _LOAD_MERGED.format(auto=auto)
    arguments = f", num_labels={len(job.spec.labels or [])}" if classifies else ""
    return _LOAD_ADAPTER.format(auto=auto, arguments=arguments)


def _cell(value: str) -> str:
    # A class may be called anything.
    return value.replace("|", "\\|").replace("\n", " ")
