"""What a model's files declare: which tensors are weights, and how long a row may be."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_trainer.model_files import leave_out_computed
from finetune_trainer.model_folder import ModelConfig
from finetune_trainer.safetensors_header import TensorInfo

COMPUTED = [
    "h.0.attn.bias",
    "transformer.h.11.attn.masked_bias",
    "gpt_neox.layers.3.attention.bias",
    "gpt_neox.layers.3.attention.masked_bias",
    "gpt_neox.layers.3.attention.rotary_emb.inv_freq",
    "model.layers.0.self_attn.rotary_emb.inv_freq",
]
WEIGHTS = [
    "h.0.attn.c_attn.bias",
    "gpt_neox.layers.3.attention.dense.bias",
    "gpt_neox.layers.3.attention.query_key_value.bias",
    "model.layers.0.self_attn.q_proj.bias",
    "model.layers.0.self_attn.q_proj.weight",
]


def test_masks_and_frequencies_in_old_files_are_no_weights() -> None:
    tensors = {
        name: TensorInfo(dtype="U8", shape=(1,), data_offsets=(0, 1)) for name in (*COMPUTED, *WEIGHTS)
    }
    assert list(leave_out_computed(tensors)) == WEIGHTS


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        pytest.param({}, None, id="not said"),
        pytest.param({"max_position_embeddings": 4096}, 4096, id="usual"),
        pytest.param({"n_positions": 1024}, 1024, id="GPT-2"),
        pytest.param(
            {"max_position_embeddings": 131072, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
            131072,
            id="frequencies that stay",
        ),
        pytest.param(
            {
                "max_position_embeddings": 131072,
                "original_max_position_embeddings": 4096,
                "rope_scaling": {"type": "longrope", "long_factor": [1.0]},
            },
            4096,
            id="Phi-3",
        ),
        pytest.param(
            {
                "max_position_embeddings": 131072,
                "original_max_position_embeddings": 4096,
                "rope_scaling": {"type": "su"},
            },
            4096,
            id="Phi-3 as it came out",
        ),
        pytest.param(
            {
                "max_position_embeddings": 131072,
                "rope_parameters": {"rope_type": "longrope", "original_max_position_embeddings": 8192},
            },
            8192,
            id="written by transformers 5",
        ),
    ],
)
def test_the_longest_row(config: dict[str, Any], expected: int | None) -> None:
    """Beyond the length that longrope began with, one long row changes the positions of those beside it."""
    assert ModelConfig.model_validate(config).context_length == expected
