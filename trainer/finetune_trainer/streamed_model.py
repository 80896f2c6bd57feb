"""A causal LM whose weights come from disk when a layer needs them, so that a model larger than memory can be run.

The model's own code computes; only its parameters are brought in, in fp32, and dropped again, module by module.
"""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from finetune_trainer.attention import PACKED_ATTENTION, register_packed_attention
from finetune_trainer.tensor_files import TensorFiles


def open_streamed_model(directory: Path, files: TensorFiles) -> PreTrainedModel:
    """Build the model of a folder without weights; each module loads its own when it is called."""
    register_packed_attention()
    config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation=PACKED_ATTENTION, trust_remote_code=False
        )
    sources = _tied_sources(model)
    for path, module in model.named_modules():
        names = {name: f"{path}.{name}" for name, _ in module.named_parameters(recurse=False)}
        if names:
            _stream(module, {name: sources.get(full, full) for name, full in names.items()}, files)
    return model.eval()


def _stream(module: nn.Module, sources: dict[str, str], files: TensorFiles) -> None:
    def bring(module: nn.Module, inputs: object) -> None:
        for name, source in sources.items():
            module.register_parameter(name, nn.Parameter(files.load(source).float(), requires_grad=False))

    def drop(module: nn.Module, inputs: object = None, output: object = None) -> None:
        for name, parameter in list(module.named_parameters(recurse=False)):
            module.register_parameter(name, _placeholder(parameter.shape))

    drop(module)
    module.register_forward_pre_hook(bring)
    module.register_forward_hook(drop)


def _placeholder(shape: torch.Size) -> nn.Parameter:
    # Shape and device of the real one in the memory of one number. On the meta device peft would lose its adapter.
    return nn.Parameter(torch.zeros(()).expand(shape), requires_grad=False)


def _tied_sources(model: PreTrainedModel) -> dict[str, str]:
    """Where a tied parameter's values stand, by the parameter's name."""
    if not model.config.tie_word_embeddings:
        return {}
    names = {id(module): path for path, module in model.named_modules()}
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    return {f"{names[id(head)]}.weight": f"{names[id(embedding)]}.weight"}
