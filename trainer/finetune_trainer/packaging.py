"""What stands beside the weights so that a folder loads as it is: configuration, tokenizer, chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import torch
from pydantic import JsonValue

CONFIG_NAME = "config.json"
GENERATION_CONFIG_NAME = "generation_config.json"
CHAT_TEMPLATE_NAME = "chat_template.jinja"
_TOKENIZER_CONFIG_NAME = "tokenizer_config.json"
_TOKENIZER_NAMES = (
    "tokenizer.json",
    _TOKENIZER_CONFIG_NAME,
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
# Says where the folder stood on the machine that saved it.
_LOCAL_KEYS = ("_name_or_path",)


def write_tokenizer(base: Path, directory: Path, chat_template: str) -> None:
    """Copy the base's tokenizer; the template is the run's own, in the one file that every loader prefers."""
    for name in _TOKENIZER_NAMES:
        if name != _TOKENIZER_CONFIG_NAME and (base / name).exists():
            (directory / name).write_bytes((base / name).read_bytes())
    if (base / _TOKENIZER_CONFIG_NAME).exists():
        config = _load(base / _TOKENIZER_CONFIG_NAME)
        config.pop("chat_template", None)
        _save(directory / _TOKENIZER_CONFIG_NAME, config)
    (directory / CHAT_TEMPLATE_NAME).write_text(chat_template, encoding="utf-8")


def write_model_config(base: Path, directory: Path, weights: torch.dtype) -> None:
    """Write config.json with the merged weights' number format, and the generation settings as they were."""
    config = {key: value for key, value in _load(base / CONFIG_NAME).items() if key not in _LOCAL_KEYS}
    config.pop("torch_dtype", None)
    config["dtype"] = str(weights).removeprefix("torch.")
    _save(directory / CONFIG_NAME, config)
    if (base / GENERATION_CONFIG_NAME).exists():
        _save(directory / GENERATION_CONFIG_NAME, _load(base / GENERATION_CONFIG_NAME))


def _load(path: Path) -> dict[str, JsonValue]:
    return cast(dict[str, JsonValue], json.loads(path.read_text(encoding="utf-8")))


def _save(path: Path, content: dict[str, JsonValue]) -> None:
    # Sorted: equal runs have equal digests.
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
