"""Base models of real architecture that cost nothing: two layers, random weights, a byte-level tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ARCHITECTURES = ("qwen2", "qwen3", "llama")


def make_config(architecture: str = "qwen3", **changes: Any) -> PreTrainedConfig:
    """A tiny configuration; `changes` override its fields."""
    from transformers import LlamaConfig, Qwen2Config, Qwen3Config

    kinds = {"qwen2": Qwen2Config, "qwen3": Qwen3Config, "llama": LlamaConfig}
    settings: dict[str, Any] = {
        "vocab_size": 264,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
    }
    if architecture == "qwen3":
        settings["head_dim"] = 16
    return kinds[architecture](**{**settings, **changes})


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, and ChatML's."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: index for index, symbol in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )
    wrapped.chat_template = CHATML
    return wrapped


def write_model(
    folder: Path,
    architecture: str = "qwen3",
    *,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    shard_size: str = "5GB",
    **changes: Any,
) -> Path:
    """Write a random model and its tokenizer as `save_pretrained` does; the folder."""
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = make_tokenizer()
    config = make_config(
        architecture, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, **changes
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    model.to(dtype or torch.float32).save_pretrained(folder, max_shard_size=shard_size)
    tokenizer.save_pretrained(folder)
    return folder
