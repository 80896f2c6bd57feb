"""Folders of base models as users store them, written without torch: real tokenizer, real headers, zeros for weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from finetune_trainer.data.masks import trl_template_directory

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Qwen2-Instruct's own, which TRL does not know.
QWEN2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
HIDDEN = 16
LAYERS = 2
CORPUS = (
    "Where is my order? It was sent today. 我的订单在哪里？已经发货了。",
    "user assistant system\n",
    "refund please 退款",
)


def known_template(name: str) -> str:
    """A chat template as its model ships it, such as `qwen3` or `qwen2_5`."""
    return (trl_template_directory() / f"{name}.jinja").read_text(encoding="utf-8")


@cache
def tokenizer_json(*, trim_offsets: bool = False) -> str:
    """A byte-level BPE tokenizer with merges, as JSON."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=list(SPECIAL_TOKENS),
    )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    return str(tokenizer.to_str())


@cache
def byte_tokenizer_json(*, first_token: str | None = None) -> str:
    """A tokenizer whose ids can be written down by hand: a byte is its own id, special tokens count from 256.

    With `first_token`, one of SPECIAL_TOKENS, every text begins with it, as Llama's tokenizers do.
    """
    # ByteLevel writes the 256 bytes as these characters: printable ones as they are, the others in order from 256 on.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    vocabulary = {chr(byte): byte for byte in printable}
    vocabulary |= {chr(256 + place): byte for place, byte in enumerate(others)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    if first_token is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{first_token} $A", special_tokens=[(first_token, tokenizer.token_to_id(first_token))]
        )
    return str(tokenizer.to_str())


def make_tensors(*, vocabulary_size: int | None = None, hidden: int = HIDDEN) -> dict[str, np.ndarray]:
    """The tensors of a Qwen-shaped model of two layers, tied embeddings."""
    rows = vocabulary_size or Tokenizer.from_str(tokenizer_json()).get_vocab_size()
    tensors = {"model.embed_tokens.weight": np.zeros((rows, hidden), np.float32)}
    for layer in range(LAYERS):
        block = f"model.layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            tensors[f"{block}.self_attn.{name}.weight"] = np.zeros((hidden, hidden), np.float32)
        for name in ("gate_proj", "up_proj"):
            tensors[f"{block}.mlp.{name}.weight"] = np.zeros((2 * hidden, hidden), np.float32)
        tensors[f"{block}.mlp.down_proj.weight"] = np.zeros((hidden, 2 * hidden), np.float32)
        tensors[f"{block}.input_layernorm.weight"] = np.zeros(hidden, np.float32)
    tensors["model.norm.weight"] = np.zeros(hidden, np.float32)
    return tensors


def make_model_config(**changes: Any) -> dict[str, Any]:
    """config.json of that model; a value of `...` removes the field."""
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": HIDDEN,
        "vocab_size": Tokenizer.from_str(tokenizer_json()).get_vocab_size(),
        "max_position_embeddings": 2048,
        **changes,
    }
    return {key: value for key, value in config.items() if value is not ...}


def write_tokenizer_folder(
    folder: Path,
    *,
    chat_template: str | None = CHATML,
    tokenizer: str | None = None,
    special_tokens: Mapping[str, str] | None = None,
) -> Path:
    """Write nothing but a tokenizer: by default the byte tokenizer, which ends texts and turns with <|im_end|>."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer or byte_tokenizer_json())
    special = {"eos_token": "<|im_end|>"} if special_tokens is None else dict(special_tokens)
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**special, "tokenizer_class": "PreTrainedTokenizerFast"})
    )
    if chat_template is not None:
        (folder / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
    return folder


def write_model_folder(
    folder: Path, *, chat_template: str | None = None, trim_offsets: bool = False, **config: Any
) -> Path:
    """Write a model with the Qwen3 template, or another one; `config` changes config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(make_model_config(**config)))
    (folder / "tokenizer.json").write_text(tokenizer_json(trim_offsets=trim_offsets))
    special = {
        "eos_token": "<|im_end|>",
        "pad_token": {"__type": "AddedToken", "content": "<|endoftext|>", "special": True},
    }
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**special, "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 2048})
    )
    (folder / "chat_template.jinja").write_text(chat_template or known_template("qwen3"), encoding="utf-8")
    save_file(make_tensors(), folder / "model.safetensors", metadata={"format": "pt"})
    return folder
