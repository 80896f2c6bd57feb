"""What training leaves behind, without training: adapters of every method and whole models, with weights that do something."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel

_SPREAD = 0.05
LABELS = ("good", "bad", "neither")


def load_base(base: Path, labels: Sequence[str] | None = None) -> PreTrainedModel:
    """A base model in fp32, as a causal LM or as a classifier with these labels."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    if labels is None:
        return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=len(labels), dtype=torch.float32
    ).eval()


def write_adapter(
    base: Path,
    folder: Path,
    config: PeftConfig,
    *,
    labels: Sequence[str] | None = None,
    seed: int = 1,
    alter: Callable[[PeftModel], None] | None = None,
) -> Path:
    """Write an adapter whose trained parameters are random, as peft's save_pretrained does; the folder."""
    import torch
    from peft import get_peft_model

    with warnings.catch_warnings():
        # peft has something to say about tied embeddings, which are what is tested.
        warnings.simplefilter("ignore")
        model = get_peft_model(load_base(base, labels), config)
        torch.manual_seed(seed)
        for _, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.data += _SPREAD * torch.randn_like(parameter)
        if alter is not None:
            alter(model)
        model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def load_adapted(base: Path, adapter: Path, labels: Sequence[str] | None = None) -> PeftModel:
    """Base + adapter as a user loads it."""
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(load_base(base, labels), adapter).eval()


def write_trained_weights(
    base: Path, folder: Path, *, labels: Sequence[str] | None = None, seed: int = 1, shard_size: str = "5GB"
) -> Path:
    """Write fp32 weights near the base's, as the train stage does after full fine-tuning; the folder."""
    import torch

    model = load_base(base, labels)
    torch.manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += 0.2 * _SPREAD * torch.randn_like(parameter)
    model.save_pretrained(folder, max_shard_size=shard_size)
    # Training commits weights alone.
    (folder / "config.json").unlink()
    (folder / "generation_config.json").unlink(missing_ok=True)
    return folder


def prune_ranks(kept: dict[str, list[bool]]) -> Callable[[PeftModel], None]:
    """Take ranks away from an AdaLoRA adapter, by the ends of modules' paths, as its allocator does."""

    def alter(model: PeftModel) -> None:
        config: Any = model.peft_config["default"]
        config.rank_pattern = {}
        for name, parameter in model.base_model.model.named_parameters():
            if "lora_E" not in name:
                continue
            found = next((keep for end, keep in kept.items() if re.search(end, name)), None)
            keep = found or [True] * len(parameter)
            config.rank_pattern[name] = keep
            parameter.data[[not each for each in keep]] = 0.0

    return alter


def logits_of(model: torch.nn.Module, rows: torch.Tensor) -> torch.Tensor:
    """Logits of rows [rows, tokens] without padding."""
    import torch

    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=rows, attention_mask=torch.ones_like(rows)).logits
    return logits
