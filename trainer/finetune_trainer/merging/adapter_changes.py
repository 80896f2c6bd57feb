"""Reads an adapter as peft wrote it. What no method's ending marks was trained whole: peft's modules_to_save."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from finetune_trainer.adapters import ADAPTER_CONFIG_NAME
from finetune_trainer.errors import UserError
from finetune_trainer.merging import adalora, ia3, lora
from finetune_trainer.merging.adapter_tensors import base_name, cannot_merge
from finetune_trainer.merging.changes import Adjustment, Changes, Replacement
from finetune_trainer.tensor_files import TensorFiles
from finetune_trainer.tensor_names import CLASS_HEAD, OUTPUT_HEAD


def read_adapter_changes(directory: Path, files: TensorFiles, base: TensorFiles) -> Changes:
    """What the adapter in `directory`, whose tensors are `files`, does to the base's tensors."""
    config = json.loads((directory / ADAPTER_CONFIG_NAME).read_text(encoding="utf-8"))
    method, endings, adjusted = _read_adjusted(cast(dict[str, Any], config), files, base)
    replaced: dict[str, Replacement] = {}
    for name in files:
        if name.endswith(endings):
            continue
        if base_name(name) not in base and base_name(name) not in (OUTPUT_HEAD, CLASS_HEAD):
            raise cannot_merge(name, method)
        replaced[base_name(name)] = Replacement(files, name)
    # peft trains one tensor with ensure_weight_tying, and writes it for both embeddings.
    return Changes(adjusted, replaced, keeps_tie=bool(config.get("ensure_weight_tying")))


def _read_adjusted(
    config: dict[str, Any], files: TensorFiles, base: TensorFiles
) -> tuple[str, tuple[str, ...], dict[str, Adjustment]]:
    match config.get("peft_type"):
        case "LORA":
            return "LoRA", lora.ENDINGS, lora.read_lora(files, config)
        case "ADALORA":
            return "AdaLoRA", adalora.ENDINGS, adalora.read_adalora(files, config)
        case "IA3":
            return "IA3", ia3.ENDINGS, ia3.read_ia3(files, base)
        case other:
            raise UserError(
                f"An adapter of type {other} cannot be merged. Set spec.output.merged.enabled to false: the adapter "
                "works without merging."
            )
