"""A model whose weights come from disk when a layer needs them, so that one larger than memory can be run.

The model's own code computes, and peft's where there is an adapter; only the base's parameters are brought in, in fp32,
and dropped again, module by module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from accelerate import init_empty_weights
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from finetune_trainer.attention import PACKED_ATTENTION, register_packed_attention
from finetune_trainer.tensor_files import TensorFiles
from finetune_trainer.tensor_names import CLASS_HEAD

Sources = Mapping[nn.Module, Mapping[str, str]]


def open_streamed_model(
    directory: Path, files: TensorFiles, *, labels: Sequence[str] | None = None
) -> PreTrainedModel:
    """Build the model of a folder without weights; each module loads its own from `files` when it is called.

    With `labels` it is a classifier of that many classes. One whose head is not in the files says 0 for every class.
    """
    model = _build_empty(directory, labels, PACKED_ATTENTION)
    for module, sources in _find_sources(model, files).items():
        _stream(module, module, sources, files)
    return model.eval()


def open_streamed_adapter(
    directory: Path,
    files: TensorFiles,
    adapter: Path,
    *,
    labels: Sequence[str] | None = None,
    attention: str = PACKED_ATTENTION,
) -> PeftModel:
    """Build a base model of which `files` are streamed, with an adapter, which is loaded, as peft does it."""
    model = _build_empty(directory, labels, attention)
    streamed = _find_sources(model, files)
    adapted = PeftModel.from_pretrained(model, adapter).eval()
    # Only now, or peft would copy the hooks with every module that was trained whole. DoRA also looks at the base's
    # weight when the base's layer is through, so it stays for as long as the layer around it runs.
    layers = (module for module in adapted.modules() if isinstance(module, BaseTunerLayer))
    owners = {layer.get_base_layer(): layer for layer in layers}
    for module, sources in streamed.items():
        _stream(owners.get(module, module), module, sources, files)
    return adapted


def _build_empty(directory: Path, labels: Sequence[str] | None, attention: str) -> PreTrainedModel:
    register_packed_attention()
    config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    if labels is None:
        kind = AutoModelForCausalLM
    else:
        kind = AutoModelForSequenceClassification
        config.num_labels = len(labels)
    with init_empty_weights():
        model: PreTrainedModel = kind.from_config(
            config, dtype=torch.float32, attn_implementation=attention, trust_remote_code=False
        )
    for module in model.modules():
        _drop(module)
    return model


def _find_sources(model: PreTrainedModel, files: TensorFiles) -> Sources:
    """Which parameters of which module stand where in the files."""
    tied, prefix = _tied_sources(model), model.base_model_prefix
    found: dict[nn.Module, dict[str, str]] = {}
    for path, module in model.named_modules():
        names = {name: f"{path}.{name}" for name, _ in module.named_parameters(recurse=False)}
        sources = {name: _stored_name(tied.get(full, full), files, prefix) for name, full in names.items()}
        # A class head is trained from nothing: the base has none.
        sources = {
            name: source for name, source in sources.items() if source in files or source != CLASS_HEAD
        }
        if sources:
            found[module] = sources
    return found


def _stored_name(name: str, files: TensorFiles, prefix: str) -> str:
    """How the files call a parameter: old ones leave out the decoder's name, and GPT-NeoX's have a head of their own.

    Source: transformers, which renames both as it loads (conversion_mapping.py; modeling_utils.py, base_model_prefix).
    """
    other_names = (
        name.removeprefix(f"{prefix}."),
        f"{prefix}.{name}",
        name.replace("lm_head.", "embed_out."),
    )
    return next((each for each in (name, *other_names) if each in files), name)


def _stream(owner: nn.Module, module: nn.Module, sources: Mapping[str, str], files: TensorFiles) -> None:
    def bring(owner: nn.Module, inputs: object) -> None:
        for name, source in sources.items():
            module.register_parameter(name, nn.Parameter(files.load(source).float(), requires_grad=False))

    def drop(owner: nn.Module, inputs: object, output: object) -> None:
        _drop(module)

    owner.register_forward_pre_hook(bring)
    owner.register_forward_hook(drop)


def _drop(module: nn.Module) -> None:
    # Shape and device of the real ones in the memory of one number. On the meta device peft would lose its adapter.
    for name, parameter in list(module.named_parameters(recurse=False)):
        placeholder = nn.Parameter(torch.zeros(()).expand(parameter.shape), requires_grad=False)
        module.register_parameter(name, placeholder)


def _tied_sources(model: PreTrainedModel) -> dict[str, str]:
    """Where a tied parameter's values stand, by the parameter's name."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if not model.config.tie_word_embeddings or head is None:
        return {}
    names = {id(module): path for path, module in model.named_modules()}
    return {f"{names[id(head)]}.weight": f"{names[id(embedding)]}.weight"}
