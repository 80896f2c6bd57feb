"""One run of what people use today, in a process of its own, on the same rows from the same weights; prints JSON.

python -m benchmarks.trainer.rival --kind trl_packing --workload workload.json
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from finetune_trainer.unused_packages import FITTING_PACKAGES, leave_out_unused_packages

# None of them takes part in a step; they only make every one of these processes start later.
leave_out_unused_packages(keep=("datasets", *FITTING_PACKAGES))

import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from peft import LoraConfig, get_peft_model  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)
from trl import SFTConfig, SFTTrainer  # noqa: E402

from benchmarks.trainer.meter import RunMeter  # noqa: E402
from benchmarks.trainer.workload import LORA_ALPHA, LORA_RANK, Workload  # noqa: E402
from finetune_trainer.data.batches import DataOrder  # noqa: E402
from finetune_trainer.data.prepared import PreparedRows  # noqa: E402

IGNORED = -100
# TRL's default; others were not tried.
_PACKED_LENGTH = 1024


def main(arguments: list[str]) -> int:
    """Train one workload."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=list(KINDS), required=True)
    parser.add_argument("--workload", type=Path, required=True)
    parser.add_argument("--memory-after-step", type=int)
    options = parser.parse_args(arguments)
    workload = Workload.load(options.workload)
    _be_quiet()
    torch.set_num_threads(workload.threads)
    meter = RunMeter(options.memory_after_step)
    with tempfile.TemporaryDirectory() as folder:
        KINDS[options.kind](workload, meter, folder).train()
    print(json.dumps(meter.result(workload.skipped_steps)))
    return 0


# --- the rivals ------------------------------------------------------------------------------------------------


def build_hf(workload: Workload, meter: RunMeter, folder: str, sampling: str = "random") -> Trainer:
    """transformers.Trainer as it comes, with the collator that pads inputs and labels."""
    tokenizer = _load_tokenizer(workload)
    model = _load_model(workload)
    return _metered(Trainer, meter)(
        model=_with_adapter(model) if workload.method == "LoRA" else model,
        args=TrainingArguments(**_settings(workload, folder), train_sampling_strategy=sampling),
        train_dataset=load_dataset(workload),
        data_collator=DataCollatorForSeq2Seq(tokenizer),
    )


def build_hf_grouped(workload: Workload, meter: RunMeter, folder: str) -> Trainer:
    """The same, rows of similar length together."""
    return build_hf(workload, meter, folder, "group_by_length")


def build_hf_ordered(workload: Workload, meter: RunMeter, folder: str) -> Trainer:
    """The same, rows in our order."""
    trainer = build_hf(workload, meter, folder, "sequential")
    order = DataOrder(len(trainer.train_dataset), workload.global_batch_size, workload.seed)
    rows = [row for step in range(workload.steps) for row in order.rows_of_step(step)]
    trainer.train_dataset = trainer.train_dataset.select(rows)
    return trainer


def build_trl(workload: Workload, meter: RunMeter, folder: str) -> Trainer:
    """TRL's SFTTrainer as it comes: it pads, and recomputes activations."""
    return _build_sft(workload, meter, SFTConfig(**_settings(workload, folder)))


def build_trl_packing(workload: Workload, meter: RunMeter, folder: str) -> Trainer:
    """TRL's SFTTrainer with packing: one packed row at a time, nothing recomputed, which serves it best here.

    It computes the rows of a device batch as one sequence with a mask over all of it, so one row costs least.
    """
    settings = _settings(workload, folder)
    dataset = load_dataset(workload)
    tokens = sum(map(len, dataset["input_ids"])) / len(dataset) * workload.global_batch_size
    settings |= {
        "packing": True,
        "max_length": _PACKED_LENGTH,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": max(1, round(tokens / _PACKED_LENGTH)),
        "gradient_checkpointing": bool(workload.gradient_checkpointing),
    }
    return _build_sft(workload, meter, SFTConfig(**settings))


KINDS: dict[str, Callable[[Workload, RunMeter, str], Trainer]] = {
    "hf": build_hf,
    "hf_grouped": build_hf_grouped,
    "hf_ordered": build_hf_ordered,
    "trl": build_trl,
    "trl_packing": build_trl_packing,
}


# --- what they share -------------------------------------------------------------------------------------------


def load_dataset(workload: Workload) -> Dataset:
    """Token ids and labels of all rows."""
    rows = PreparedRows(workload.rows)
    ids = [rows.row_input_ids(row).tolist() for row in range(len(rows))]
    learned = [rows.row_learned(row).tolist() for row in range(len(rows))]
    labels = [
        [token if wanted else IGNORED for token, wanted in zip(*row, strict=True)]
        for row in zip(ids, learned, strict=True)
    ]
    return Dataset.from_dict({"input_ids": ids, "labels": labels})


def _build_sft(workload: Workload, meter: RunMeter, config: SFTConfig) -> Trainer:
    model = _load_model(workload)
    return _metered(SFTTrainer, meter)(
        model=model,
        args=config,
        train_dataset=load_dataset(workload),
        processing_class=_load_tokenizer(workload),
        peft_config=_lora() if workload.method == "LoRA" else None,
    )


def _settings(workload: Workload, folder: str) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "output_dir": folder,
        "use_cpu": True,
        "bf16": workload.precision == "bf16",
        "max_steps": workload.steps,
        "learning_rate": workload.learning_rate,
        "lr_scheduler_type": "constant",
        "per_device_train_batch_size": workload.device_batch_size,
        "gradient_accumulation_steps": max(1, workload.global_batch_size // workload.device_batch_size),
        "seed": workload.seed,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    if workload.gradient_checkpointing is not None:
        settings["gradient_checkpointing"] = workload.gradient_checkpointing
    return settings


def _metered(kind: type[Trainer], meter: RunMeter) -> type[Trainer]:
    class Metered(kind):  # type: ignore[misc]
        def __init__(self, **arguments: Any) -> None:  # noqa: ANN401 (the rival's own)
            super().__init__(**arguments, callbacks=[meter])

        def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *more: Any) -> torch.Tensor:  # noqa: ANN401
            mask = inputs.get("attention_mask")
            computed = inputs["input_ids"].numel()
            meter.count(computed, computed if mask is None else int(mask.sum()))
            loss: torch.Tensor = super().training_step(model, inputs, *more)
            meter.add_loss(float(loss))
            return loss

    return Metered


def _load_model(workload: Workload) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(workload.model, dtype=torch.float32)
    model.config.use_cache = False
    return model


def _load_tokenizer(workload: Workload) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(workload.model)


def _with_adapter(model: PreTrainedModel) -> Any:  # noqa: ANN401 (peft has no types)
    model.enable_input_require_grads()
    return get_peft_model(model, _lora())


def _lora() -> LoraConfig:
    return LoraConfig(task_type="CAUSAL_LM", r=LORA_RANK, lora_alpha=LORA_ALPHA, target_modules="all-linear")


def _be_quiet() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
