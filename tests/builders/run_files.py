"""run.json as prepare writes it."""

from __future__ import annotations

from typing import Any

from finetune_trainer.run_file import RunFile

_MINIMAL: dict[str, Any] = {
    "run": "bot-01234567",
    "job_uid": "0123456789",
    "model": {
        "uri": "s3://models/base",
        "digest": "a" * 64,
        "files": (),
        "architecture": "Qwen2ForCausalLM",
        "model_type": "qwen2",
        "context_length": 512,
        "vocabulary_size": 264,
        "parameter_count": 1000,
        "weight_dtypes": ("BF16",),
        "target_modules": ("q_proj", "v_proj"),
    },
    "method": {"target_modules": ("q_proj", "v_proj")},
    "dataset": {
        "digest": "b" * 64,
        "prepared_uri": "s3://models/prepared",
        "rows_used": 40,
        "rows_dropped": 0,
        "tokens": 900,
        "learned_tokens": 500,
        "longest_row_tokens": 30,
    },
    "total_steps": 10,
    "steps_per_epoch": 5,
    "warmup_steps": 1,
    "chat_template": "",
    "mask_source": "",
    "settings": {"method": {"type": "LoRA", "lora": {"rank": 4}}, "seed": 0, "global_batch_size": 8},
}


def make_run_file(**changes: Any) -> RunFile:
    """A run's file; `changes` set fields, `__` for the dot (`model__digest="c"`)."""
    content = RunFile.model_validate(_MINIMAL).model_dump(mode="json", by_alias=False)
    for path, value in changes.items():
        *parents, field = path.split("__")
        target = content
        for parent in parents:
            target = target[parent]
        target[field] = value
    return RunFile.model_validate(content)
