"""What a trained cell left behind, held against what its method may do: which tensors changed, and what the model says."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from finetune_api.spec import MergedPrecision, MethodType, Task
from finetune_trainer.adapters import ADAPTER_WEIGHTS_NAME
from finetune_trainer.deliverables import can_be_merged
from finetune_trainer.merging.adapter_changes import read_adapter_changes
from finetune_trainer.merging.full_changes import read_full_changes
from finetune_trainer.merging.merged_model import MergedModel, write_merged
from finetune_trainer.packaging import has_tied_embeddings, write_merged_config, write_tokenizer
from finetune_trainer.tensor_files import TensorFiles
from tests.builders.tuned_models import load_adapted, load_base, logits_of
from tests.matrix.axes import Combination
from tests.matrix.runner import Cell, Outcome

# In fp32 nothing but the order of sums differs.
LOGIT_TOLERANCE = 1e-4
_ROWS = torch.arange(60).reshape(3, 20) * 7 % 256
_BLOCK_LINEAR = r"(q|k|v|o|gate|up|down)_proj\.weight"
_MLP, _ATTENTION = r"mlp\.\w+\.weight", r"self_attn\.\w+\.(weight|bias)"
# What is left alone in a block's linear layers: their biases.
_CHANGED: Mapping[str, str] = {
    "Full": r"",
    "LoRA + self_attn whole": rf"{_MLP}|{_ATTENTION}",
    "LoRA + mlp whole": rf"{_MLP}|(q|k|v|o)_proj\.weight",
    "LoRA on lm_head": r"q_proj\.weight|lm_head\.weight",
    "IA3": r"(k|v)_proj\.(weight|bias)|down_proj\.weight",
}
_HEAD, _CLASS_HEAD = "lm_head.weight", "score.weight"


def ensure_figures(outcome: Outcome, fall: float) -> None:
    """Every figure is a number, and the loss has lost this share of where it began."""
    figures = [*outcome.losses, *outcome.norms, *outcome.rates]
    assert all(math.isfinite(figure) for figure in figures), figures
    first, last = outcome.losses[0], outcome.losses[-1]
    assert last < (1 - fall) * first, f"the loss went from {first} to {last}: {outcome.losses}"


def ensure_result(cell: Cell, combination: Combination) -> None:
    """folder/trained is loaded by the libraries that users have, and is what the method may make of the base."""
    spec = cell.spec
    if not can_be_merged(spec.method.type):
        _ensure_virtual_tokens(cell)
        return
    merged = merge(cell)
    allowed, changed = _allowed_names(cell, combination), merged.changed_names()
    if spec.method.type is MethodType.ADA_LORA:
        # Ranks move between layers, and a layer may be left with none.
        assert changed and changed <= allowed, changed ^ allowed
        _ensure_ranks_are_left(cell)
    else:
        assert changed == allowed, changed ^ allowed
    found = logits_of(load_base(merged.folder, spec.labels), _ROWS)
    if spec.method.type is MethodType.FULL:
        _ensure_trained_weights(cell, merged)
        wanted = found
    else:
        wanted = logits_of(load_adapted(cell.model, _trained(cell), spec.labels), _ROWS)
    assert torch.isfinite(wanted).all()
    assert (wanted - found).abs().max() < LOGIT_TOLERANCE
    if spec.task is Task.CAUSAL_LM:
        assert (wanted - logits_of(load_base(cell.model), _ROWS)).abs().max() > 100 * LOGIT_TOLERANCE


@dataclass(frozen=True)
class Merged:
    """The merged model and the base it was made from."""

    folder: Path
    base: Path

    def changed_names(self) -> set[str]:
        """Tensors that the merged model has and the base has not, or has with other bytes; what is missing too."""
        with TensorFiles(self.base) as base, TensorFiles(self.folder) as merged:
            kept = {
                name for name in merged if name in base and torch.equal(base.load(name), merged.load(name))
            }
            return {*base, *merged} - kept


def merge(cell: Cell) -> Merged:
    """Merge as the export stage does."""
    spec, trained, folder = cell.spec, _trained(cell), cell.folder / "merged"
    with TensorFiles(cell.model) as base, TensorFiles(trained) as tensors:
        is_full = spec.method.type is MethodType.FULL
        changes = read_full_changes(tensors) if is_full else read_adapter_changes(trained, tensors, base)
        model = MergedModel(
            base,
            changes,
            MergedPrecision.BASE,
            tied_embeddings=has_tied_embeddings(cell.model),
            task=spec.task,
        )
        write_merged(model, folder, "5GB")
        write_merged_config(
            cell.model, folder, model.main_dtype, is_untied=model.is_untied, labels=spec.labels
        )
        write_tokenizer(cell.model, folder, "", spec.labels)
    return Merged(folder, cell.model)


def share_of_changed_elements(before: Path, after: Path) -> float:
    """How many of the numbers in one folder's tensors are others in the other's, as a share."""
    changed = total = 0
    with TensorFiles(before) as old, TensorFiles(after) as new:
        assert set(old) == set(new)
        for name in old:
            changed += int((old.load(name) != new.load(name)).sum())
            total += old.load(name).numel()
    return changed / total


def _trained(cell: Cell) -> Path:
    return cell.folder / "trained"


def _allowed_names(cell: Cell, combination: Combination) -> set[str]:
    with TensorFiles(cell.model) as base:
        names = {*base, _HEAD}
    pattern = re.compile(f"({_CHANGED.get(combination.method, _BLOCK_LINEAR)})$")
    # A head trained by Full is the embedding it is tied to.
    allowed = {name for name in names if pattern.search(name)} - _unwritten(combination)
    return allowed | ({_CLASS_HEAD} if cell.spec.task is Task.SEQUENCE_CLASSIFICATION else set())


def _unwritten(combination: Combination) -> set[str]:
    return set() if combination.method == "LoRA on lm_head" else {_HEAD}


def _ensure_trained_weights(cell: Cell, merged: Merged) -> None:
    with TensorFiles(_trained(cell)) as trained, TensorFiles(merged.folder) as files:
        assert set(trained) == set(files)
        assert {trained.plan(name).dtype for name in trained} == {torch.float32}
        assert all(torch.equal(trained.load(name), files.load(name)) for name in trained)


def _ensure_ranks_are_left(cell: Cell) -> None:
    settings = cell.spec.method.ada_lora
    with TensorFiles(_trained(cell)) as trained:
        ranks = [trained.plan(name).shape[0] for name in trained if name.endswith(".lora_E")]
    assert sum(ranks) == settings.target_rank * len(ranks), ranks


def _ensure_virtual_tokens(cell: Cell) -> None:
    labels = cell.spec.labels
    with TensorFiles(_trained(cell)) as files:
        names: Iterable[str] = set(files)
    assert (_trained(cell) / ADAPTER_WEIGHTS_NAME).exists()
    # No tuner stands between peft's model and the base here, so the head's name is shorter than in other adapters.
    expected = {"prompt_embeddings"} | ({f"base_model.{_CLASS_HEAD}"} if labels else set())
    assert names == expected, names
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = logits_of(load_adapted(cell.model, _trained(cell), labels), _ROWS)
    assert torch.isfinite(adapted).all()
    if labels is None:
        # Virtual tokens have logits of their own, before the row's.
        plain = logits_of(load_base(cell.model), _ROWS)
        assert (adapted[:, -_ROWS.shape[1] :] - plain).abs().max() > 100 * LOGIT_TOLERANCE
