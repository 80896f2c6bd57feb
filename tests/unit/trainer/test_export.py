"""Merging and its proof, for every architecture and precision, and what is found when a proof must fail."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from finetune_api.spec import MergedPrecision
from finetune_trainer.data.step_batches import PackedRows, pack_rows
from finetune_trainer.errors import UserError
from finetune_trainer.merging.adapter_changes import read_adapter_changes
from finetune_trainer.merging.merged_model import MergedModel, parse_shard_size, write_merged
from finetune_trainer.packaging import write_merged_config, write_tokenizer
from finetune_trainer.tensor_files import TensorFiles, TensorPlan, write_sharded, write_tensors
from finetune_trainer.verification import (
    Compared,
    LogitComparison,
    compare_with_adapter,
    ensure_logits_agree,
    ensure_tensors_equal,
)
from tests.builders.rows import write_prepared_rows
from tests.builders.tiny_models import ARCHITECTURES, write_model
from tests.builders.tuned_models import write_adapter

TARGETS = ["q_proj", "v_proj", "down_proj"]


@dataclass(frozen=True)
class Export:
    """A base model, an adapter that does something, and the merged model, each in its folder."""

    folder: Path
    precision: MergedPrecision
    tied: bool

    @property
    def base(self) -> Path:
        return self.folder / "base"

    @property
    def adapter(self) -> Path:
        return self.folder / "adapter"

    @property
    def merged(self) -> Path:
        return self.folder / "merged"

    @property
    def rows(self) -> PackedRows:
        rows = write_prepared_rows(self.folder / "rows", [30] * 8)
        return pack_rows(rows, range(8))

    @contextmanager
    def merge(self) -> Iterator[MergedModel]:
        with TensorFiles(self.base) as base, TensorFiles(self.adapter) as adapter:
            changes = read_adapter_changes(self.adapter, adapter, base)
            yield MergedModel(base, changes, self.precision, tied_embeddings=self.tied)

    def write(self) -> None:
        with self.merge() as merged:
            write_merged(merged, self.merged, "1MB")
            write_merged_config(self.base, self.merged, merged.main_dtype)

    def check_tensors(self) -> None:
        with self.merge() as merged:
            ensure_tensors_equal(merged, self.merged)

    def compare(self) -> LogitComparison:
        with self.merge() as merged:
            dtypes = merged.adapted_dtypes
        return compare_with_adapter(Compared(self.base, self.adapter, self.merged, self.rows), dtypes)


def make_adapter(base: Path, folder: Path, seed: int = 1) -> None:
    config = LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules=TARGETS)
    write_adapter(base, folder, config, seed=seed)


def make_export(
    folder: Path,
    architecture: str = "qwen3",
    *,
    dtype: torch.dtype = torch.float32,
    precision: MergedPrecision = MergedPrecision.BASE,
    tied: bool = True,
) -> Export:
    export = Export(folder, precision, tied)
    write_model(export.base, architecture, dtype=dtype, shard_size="100KB", tie_word_embeddings=tied)
    make_adapter(export.base, export.adapter)
    export.write()
    return export


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_merged_model_is_base_plus_adapter(architecture: str, dtype: torch.dtype, tmp_path: Path) -> None:
    export = make_export(tmp_path, architecture, dtype=dtype, tied=architecture != "llama")
    export.check_tensors()
    comparison = export.compare()
    ensure_logits_agree(comparison)
    assert comparison.adapter_effect > 0.1
    assert comparison.max_difference < (1e-5 if dtype is torch.float32 else 0.01)


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        (MergedPrecision.BASE, torch.bfloat16),
        (MergedPrecision.BF16, torch.bfloat16),
        (MergedPrecision.FP32, torch.float32),
    ],
)
def test_precision_holds_for_every_weight_and_stands_in_the_configuration(
    precision: MergedPrecision, expected: torch.dtype, tmp_path: Path
) -> None:
    export = make_export(tmp_path, dtype=torch.bfloat16, precision=precision)
    with TensorFiles(export.merged) as tensors:
        assert {tensors.plan(name).dtype for name in tensors} == {expected}
    config = json.loads((export.merged / "config.json").read_text())
    assert config["dtype"] == str(expected).removeprefix("torch.")
    assert export.compare().holds


def test_head_that_shares_its_weights_is_not_written_twice(tmp_path: Path) -> None:
    export = make_export(tmp_path)
    with TensorFiles(export.merged) as tensors:
        assert "model.embed_tokens.weight" in tensors
        assert "lm_head.weight" not in tensors


def test_superfluous_head_of_a_tied_base_is_dropped(tmp_path: Path) -> None:
    export = make_export(tmp_path, tied=False)
    tied = Export(tmp_path, export.precision, tied=True)
    with TensorFiles(tied.base) as tensors, tied.merge() as merged:
        assert "lm_head.weight" in tensors
        assert "lm_head.weight" not in merged.plans


def test_untouched_tensors_are_the_bases_own_bytes(tmp_path: Path) -> None:
    export = make_export(tmp_path)
    with TensorFiles(export.base) as base, TensorFiles(export.merged) as merged:
        changed = {name for name in merged if not torch.equal(base.load(name), merged.load(name))}
    assert changed and all(name.split(".")[-2] in TARGETS for name in changed)


def test_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    export = make_export(tmp_path)
    first = {path.name: path.read_bytes() for path in export.merged.iterdir()}
    export.write()
    assert {path.name: path.read_bytes() for path in export.merged.iterdir()} == first


def test_shards_load_by_their_index(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    export = make_export(tmp_path)
    with export.merge() as merged:
        whole = {name: merged.tensor(name) for name in merged.plans}
        for path in export.merged.glob("*.safetensors"):
            path.unlink()
        write_sharded(export.merged, merged.plans, merged.tensor, 100_000)
    names = sorted(path.name for path in export.merged.glob("*.safetensors"))
    assert len(names) > 1 and names[0] == f"model-00001-of-{len(names):05d}.safetensors"
    assert all((export.merged / name).stat().st_size < 110_000 for name in names)
    loaded = AutoModelForCausalLM.from_pretrained(export.merged).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in whole.items())


def test_written_file_is_one_that_safetensors_reads(tmp_path: Path) -> None:
    tensors = {
        "b": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3),
        "a": torch.ones(3, dtype=torch.uint8),
        "c": torch.tensor(2.5),
    }
    plans = [TensorPlan(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()]
    write_tensors(tmp_path / "x.safetensors", plans, tensors.__getitem__)
    loaded = load_file(tmp_path / "x.safetensors")
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def test_single_wrong_bit_in_a_merged_weight_is_found(tmp_path: Path) -> None:
    export = make_export(tmp_path)
    path = export.merged / "model.safetensors"
    weights = load_file(path)
    weights["model.layers.1.self_attn.k_proj.weight"][3, 3] += 1e-7
    save_file(weights, path)
    with pytest.raises(
        UserError, match=r"model\.layers\.1\.self_attn\.k_proj\.weight is not base \+ adapter"
    ):
        export.check_tensors()


def test_missing_tensor_is_found(tmp_path: Path) -> None:
    export = make_export(tmp_path)
    path = export.merged / "model.safetensors"
    weights = load_file(path)
    del weights["model.norm.weight"]
    save_file(weights, path)
    with pytest.raises(UserError, match=r"model\.norm\.weight is missing"):
        export.check_tensors()


@pytest.mark.parametrize(
    ("dtype", "remedy"),
    [
        (torch.float32, "the merge went wrong"),
        (torch.bfloat16, r"Set spec\.output\.merged\.precision to FP32"),
    ],
    ids=["fp32", "bf16"],
)
def test_merging_another_adapter_is_found_by_its_logits(
    dtype: torch.dtype, remedy: str, tmp_path: Path
) -> None:
    export = make_export(tmp_path, dtype=dtype)
    make_adapter(export.base, export.adapter, seed=2)
    comparison = export.compare()
    assert not comparison.holds
    with pytest.raises(UserError, match=remedy):
        ensure_logits_agree(comparison)


def test_layers_swapped_alike_in_merge_and_check_are_found_by_logits(tmp_path: Path) -> None:
    """The tensor check shares the merge's reading of the adapter's names; peft reads them for itself."""
    export = make_export(tmp_path)
    path = export.merged / "model.safetensors"
    weights = load_file(path)
    one, other = (f"model.layers.{layer}.self_attn.q_proj.weight" for layer in (0, 1))
    weights[one], weights[other] = weights[other], weights[one]
    save_file(weights, path)
    assert not export.compare().holds


def test_template_of_the_run_replaces_the_tokenizers_own(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    base = write_model(tmp_path / "base")
    config_path = base / "tokenizer_config.json"
    config_path.write_text(json.dumps({**json.loads(config_path.read_text()), "chat_template": "old"}))
    (tmp_path / "out").mkdir()
    write_tokenizer(base, tmp_path / "out", "{{ messages }}")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == "{{ messages }}"


@pytest.mark.parametrize(("text", "size_bytes"), [("5GB", 5 * 10**9), ("200MB", 200 * 10**6)])
def test_shard_size(text: str, size_bytes: int) -> None:
    assert parse_shard_size(text) == size_bytes


def test_run_without_a_template_writes_none(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    (tmp_path / "out").mkdir()
    write_tokenizer(base, tmp_path / "out", "")
    assert not (tmp_path / "out" / "chat_template.jinja").exists()
