"""A small model of each causal architecture that transformers knows: a few blocks, random weights."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# Under the names of today's configurations, and under those of GPT-2 and OPT.
_SIZES: Mapping[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "n_inner": 64,
    "ffn_dim": 64,
    "word_embed_proj_dim": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def make_small_config(model_type: str, **changes: Any) -> PreTrainedConfig:
    """The configuration of a model_type, small; sizes that this type does not know are left out."""
    from transformers import CONFIG_MAPPING

    kind = CONFIG_MAPPING[model_type]
    known = {*kind().to_dict(), *kind.attribute_map, *inspect.signature(kind).parameters}
    sizes = {name: value for name, value in _SIZES.items() if name in known}
    return kind(**{**sizes, **changes})
