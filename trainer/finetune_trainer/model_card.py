"""README.md of adapter/ and merged/: where the model comes from and how to load it. Not part of any digest."""

from __future__ import annotations

from finetune_api.job_file import JobFile
from finetune_api.termination import TrainedFacts
from finetune_trainer.run_file import RunFile
from finetune_trainer.verification import LogitComparison

_LOAD_MERGED = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/merged")
tokenizer = AutoTokenizer.from_pretrained("path/to/merged")"""
_LOAD_ADAPTER = """\
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained("path/to/the/base/model")
model = PeftModel.from_pretrained(base, "path/to/adapter")
tokenizer = AutoTokenizer.from_pretrained("path/to/adapter")"""


def build_card(
    job: JobFile,
    run_file: RunFile,
    trained: TrainedFacts,
    comparison: LogitComparison | None,
    *,
    merged: bool,
) -> str:
    """Write the card of the merged model or of the adapter."""
    lora, training = job.spec.method.lora, job.spec.training
    loss = "not known" if trained.loss is None else f"{trained.loss:.4f}"
    facts = {
        "Base model": f"{run_file.model.described} ({run_file.model.architecture})",
        "Method": f"LoRA, rank {lora.rank}, alpha {lora.alpha:g}, on {', '.join(run_file.model.target_modules)}",
        "Data": f"{run_file.dataset.rows_used} rows, {run_file.dataset.learned_tokens} learned tokens",
        "Training": f"{trained.step} steps of {training.global_batch_size} rows, "
        f"learning rate {training.learning_rate:g}",
        "Loss of the last step": loss,
        "Run": job.layout.run_id,
    }
    if merged and comparison is not None:
        facts["Verified"] = (
            f"logits differ from base + adapter by at most {comparison.max_difference:.3g} on {comparison.rows} rows; "
            f"the adapter itself changes them by up to {comparison.adapter_effect:.3g}"
        )
    table = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    library, code = ("transformers", _LOAD_MERGED) if merged else ("peft", _LOAD_ADAPTER)
    return (
        f"---\nlibrary_name: {library}\n---\n\n# {job.name}\n\n"
        f"Made by finetune-operator from FineTuneJob `{job.namespace}/{job.name}`.\n\n"
        f"| | |\n|---|---|\n{table}\n\n```python\n{code}\n```\n"
    )
