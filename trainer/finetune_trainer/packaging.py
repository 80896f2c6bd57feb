"""What stands beside the weights so that a folder loads as it is: configuration, tokenizer, chat template."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from pydantic import JsonValue
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

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


def write_tokenizer(
    base: Path, directory: Path, chat_template: str, labels: Sequence[str] | None = None
) -> None:
    """Copy the base's tokenizer; the template is the run's own, in the one file that every loader prefers.

    A run that rendered no conversation has no template. With `labels` it is a classifier's, whose texts must be padded.
    """
    for name in _TOKENIZER_NAMES:
        if name != _TOKENIZER_CONFIG_NAME and (base / name).exists():
            (directory / name).write_bytes((base / name).read_bytes())
    settings = {} if labels is None else _padding(base)
    if settings or (base / _TOKENIZER_CONFIG_NAME).exists():
        config = _load(base / _TOKENIZER_CONFIG_NAME) if (base / _TOKENIZER_CONFIG_NAME).exists() else {}
        config.pop("chat_template", None)
        _save(directory / _TOKENIZER_CONFIG_NAME, {**config, **settings})
    if chat_template:
        (directory / CHAT_TEMPLATE_NAME).write_text(chat_template, encoding="utf-8")


def write_merged_config(
    base: Path,
    directory: Path,
    weights: torch.dtype,
    *,
    is_untied: bool = False,
    labels: Sequence[str] | None = None,
) -> None:
    """Write config.json as the merged weights want it, and the generation settings as they were.

    `weights` is their number format; `is_untied`: the output head is no longer the input embedding; with `labels` the
    model is a classifier, which generates nothing.
    """
    config = {key: value for key, value in _load(base / CONFIG_NAME).items() if key not in _LOCAL_KEYS}
    config.pop("torch_dtype", None)
    config["dtype"] = str(weights).removeprefix("torch.")
    if is_untied:
        config["tie_word_embeddings"] = False
    if labels is not None:
        config |= _classifier_settings(base, labels)
    _save(directory / CONFIG_NAME, config)
    if labels is None and (base / GENERATION_CONFIG_NAME).exists():
        _save(directory / GENERATION_CONFIG_NAME, _load(base / GENERATION_CONFIG_NAME))


def has_tied_embeddings(base: Path) -> bool:
    """Whether the model's output head is its input embedding; many configurations leave it to their class to say."""
    config = AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    return bool(config.tie_word_embeddings)


def _classifier_settings(base: Path, labels: Sequence[str]) -> dict[str, JsonValue]:
    config = AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    kind = AutoModelForSequenceClassification._model_mapping[type(config)]
    pads = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return {
        "architectures": [kind.__name__],
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
        "problem_type": "single_label_classification",
        # Without it transformers takes one text at a time only.
        "pad_token_id": config.pad_token_id if pads is None else pads,
    }


def _padding(base: Path) -> dict[str, JsonValue]:
    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    return {"pad_token": tokenizer.eos_token} if tokenizer.pad_token is None else {}


def _load(path: Path) -> dict[str, JsonValue]:
    return cast(dict[str, JsonValue], json.loads(path.read_text(encoding="utf-8")))


def _save(path: Path, content: dict[str, JsonValue]) -> None:
    # Sorted: equal runs have equal digests.
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
