"""Attention that never crosses from one packed row into another: one causal SDPA call per row.

Registered as an attention implementation of transformers, so that Qwen2, Qwen3, Llama and every other architecture
that asks ALL_ATTENTION_FUNCTIONS takes it. Where rows end is passed explicitly, as the forward pass's keyword
`document_lengths`; nothing is inferred from position ids.
"""

from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

PACKED_ATTENTION = "finetune_packed"


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    document_lengths: tuple[int, ...],
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_unused: object,
) -> tuple[torch.Tensor, None]:
    """Attend within each row. Shapes: query [1, heads, tokens, d], key and value [1, kv_heads, tokens, d].

    Returns [1, tokens, heads, d]. `document_lengths` sum to `tokens`.
    """
    assert attention_mask is None, "packed rows carry their boundaries, not a mask"
    assert softcap is None and s_aux is None, "prepare refuses models with soft-capping or attention sinks"
    lengths = list(document_lengths)
    outputs = [
        scaled_dot_product_attention(
            row_query,
            row_key,
            row_value,
            attn_mask=(mask := _window_mask(row_query, sliding_window)),
            is_causal=mask is None,
            dropout_p=dropout,
            scale=scaling,
            enable_gqa=key.shape[1] != query.shape[1],
        ).transpose(1, 2)
        for row_query, row_key, row_value in zip(
            torch.split(query, lengths, dim=2),
            torch.split(key, lengths, dim=2),
            torch.split(value, lengths, dim=2),
            strict=True,
        )
    ]
    return torch.cat(outputs, dim=1), None


def register_packed_attention() -> None:
    """Make the implementation known to transformers. No mask function goes with it: models then build none."""
    AttentionInterface.register(PACKED_ATTENTION, packed_attention)


def _window_mask(query: torch.Tensor, sliding_window: int | None) -> torch.Tensor | None:
    length = query.shape[2]
    if sliding_window is None or length <= sliding_window:
        return None
    allowed = torch.ones(length, length, dtype=torch.bool, device=query.device)
    return allowed.tril().triu(diagonal=1 - sliding_window)
