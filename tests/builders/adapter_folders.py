"""Folders of earlier adapters as peft stores them, written without torch: real headers, zeros for weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tests.builders.model_folders import make_tensors

_PREFIX = "base_model.model."


def lora_tensors(
    rank: int = 4, targets: Sequence[str] = ("q_proj", "v_proj"), hidden: int = 16
) -> dict[str, Any]:
    """A LoRA adapter of the model of model_folders.py."""
    tensors = {}
    for name, weight in make_tensors(hidden=hidden).items():
        path = name.removesuffix(".weight")
        if path.rpartition(".")[2] in targets:
            rows, columns = weight.shape
            tensors[f"{_PREFIX}{path}.lora_A.weight"] = np.zeros((rank, columns), np.float32)
            tensors[f"{_PREFIX}{path}.lora_B.weight"] = np.zeros((rows, rank), np.float32)
    return tensors


def write_adapter_folder(
    folder: Path, tensors: Mapping[str, np.ndarray] | None = None, **config: Any
) -> Path:
    """Write an adapter of rank 4 on q_proj and v_proj; `config` changes adapter_config.json, `...` removes a field."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.05,
        "bias": "none",
        "use_dora": False,
        "use_rslora": False,
        "init_lora_weights": True,
        "rank_pattern": {},
        "alpha_pattern": {},
        "modules_to_save": None,
        "target_modules": ["v_proj", "q_proj"],
        "base_model_name_or_path": "org/base",
        **config,
    }
    kept = {key: value for key, value in settings.items() if value is not ...}
    (folder / "adapter_config.json").write_text(json.dumps(kept))
    save_file(
        dict(tensors or lora_tensors()), folder / "adapter_model.safetensors", metadata={"format": "pt"}
    )
    return folder
