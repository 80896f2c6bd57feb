"""One run of LLaMA-Factory on the same rows from the same weights, in an environment of its own; prints JSON.

It wants other versions of transformers, TRL and peft than ours, so nothing of the project is imported here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
REQUIREMENT = "llamafactory==0.9.5"
_PYTHON = "3.11"


def install(folder: Path) -> Path:
    """Install it; the interpreter. Raises subprocess.CalledProcessError where that does not work."""
    environment = {**os.environ, "VIRTUAL_ENV": str(folder)}
    for command in (
        ("uv", "venv", "--quiet", "--python", _PYTHON, str(folder)),
        ("uv", "pip", "install", "--quiet", REQUIREMENT),
    ):
        subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    return folder / "bin/python"


def main(arguments: list[str]) -> int:
    """Train one workload."""
    import torch
    import transformers
    from llamafactory.train.tuner import run_exp  # type: ignore[import-not-found] # of that environment

    from benchmarks.trainer.meter import RunMeter

    workload, meter = json.loads(Path(arguments[0]).read_text()), RunMeter()
    torch.set_num_threads(workload["threads"])
    training_step = transformers.Trainer.training_step

    def metered_step(
        trainer: transformers.Trainer, model: torch.nn.Module, inputs: dict[str, Any], *more: object
    ) -> torch.Tensor:
        meter.count(inputs["input_ids"].numel(), int((inputs["attention_mask"] != 0).sum()))
        loss: torch.Tensor = training_step(trainer, model, inputs, *more)
        meter.add_loss(float(loss))
        return loss

    transformers.Trainer.training_step = metered_step
    with tempfile.TemporaryDirectory() as folder:
        run_exp(_settings(workload, Path(folder)), callbacks=[meter])
    print(json.dumps(meter.result(workload["skipped_steps"])))
    return 0


def _settings(workload: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Its own names; what is not said here is as it comes, recomputed activations among it."""
    _save_rows(Path(workload["rows"]), folder / "rows")
    return {
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "full",
        "model_name_or_path": workload["model"],
        "tokenized_path": str(folder / "rows"),
        # Asked for, and not looked at beside tokenized_path.
        "dataset": "rows",
        "template": "empty",
        "output_dir": str(folder / "out"),
        "use_cpu": True,
        "bf16": workload["precision"] == "bf16",
        "max_steps": workload["steps"],
        "learning_rate": workload["learning_rate"],
        "lr_scheduler_type": "constant",
        "per_device_train_batch_size": workload["device_batch_size"],
        "gradient_accumulation_steps": workload["global_batch_size"] // workload["device_batch_size"],
        "seed": workload["seed"],
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def _save_rows(path: Path, folder: Path) -> None:
    import pyarrow as pa
    from datasets import Dataset, DatasetDict

    table = pa.ipc.open_file(str(path)).read_all().select(["input_ids", "learned"]).to_pydict()
    rows = {
        "input_ids": table["input_ids"],
        "attention_mask": [[1] * len(ids) for ids in table["input_ids"]],
        "labels": [
            [token if wanted else -100 for token, wanted in zip(*row, strict=True)]
            for row in zip(table["input_ids"], table["learned"], strict=True)
        ],
    }
    DatasetDict({"train": Dataset.from_dict(rows)}).save_to_disk(str(folder))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
