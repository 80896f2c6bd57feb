"""What a folder holds, and what `finetune ask` says where it cannot be loaded."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

from finetune_cli.ask import ModelFolders, Question, answer, find_model
from finetune_cli.errors import CommandError


def model_folder(path: Path) -> Path:
    path.mkdir()
    (path / "config.json").write_text("{}")
    return path


def adapter_folder(path: Path, base: str, *, has_tokenizer: bool = True) -> Path:
    path.mkdir()
    (path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    if has_tokenizer:
        (path / "tokenizer.json").write_text("{}")
    return path


def test_a_merged_model_stands_alone(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "merged")
    assert find_model(model, None) == ModelFolders(model, None, model)


def test_an_adapter_needs_the_base_that_it_names_or_is_given(tmp_path: Path) -> None:
    base, other = model_folder(tmp_path / "base"), model_folder(tmp_path / "other")
    adapter = adapter_folder(tmp_path / "adapter", str(base))
    assert find_model(adapter, None) == ModelFolders(base, adapter, adapter)
    assert find_model(adapter, other) == ModelFolders(other, adapter, adapter)


def test_the_bases_tokenizer_serves_an_adapter_without_one(tmp_path: Path) -> None:
    base = model_folder(tmp_path / "base")
    adapter = adapter_folder(tmp_path / "adapter", str(base), has_tokenizer=False)
    assert find_model(adapter, None).tokenizer == base


def test_an_adapter_whose_base_is_in_a_store_says_what_to_do(tmp_path: Path) -> None:
    adapter = adapter_folder(tmp_path / "adapter", "s3://models/base")
    with pytest.raises(CommandError, match=r"is an adapter of s3://models/base. Fetch that model .* --base"):
        find_model(adapter, None)


def test_a_base_beside_a_whole_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="leave --base out"):
        find_model(model_folder(tmp_path / "merged"), tmp_path)


def test_a_missing_torch_is_named_with_the_command_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def import_module(name: str) -> ModuleType:
        raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    monkeypatch.setattr(importlib, "import_module", import_module)
    with pytest.raises(CommandError) as refusal:
        answer(model_folder(tmp_path / "merged"), None, Question("hello"))
    assert "torch is not installed" in str(refusal.value)
    assert "pip install 'finetune-operator[trainer]'" in str(refusal.value)
