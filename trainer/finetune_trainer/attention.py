"""Attention that never crosses from one packed row into another: one kernel for all rows on GPUs, else one call a row.

Registered as an attention implementation of transformers, so that Qwen2, Qwen3, Llama and every other architecture
that asks ALL_ATTENTION_FUNCTIONS takes it. Where rows end is passed explicitly, as the forward pass's keyword
`document_lengths`; nothing is inferred from position ids.
"""

from __future__ import annotations

from functools import cache, lru_cache
from itertools import accumulate

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

PACKED_ATTENTION = "finetune_packed"
# What the kernel for rows of any length takes. Source: torch.nn.attention.varlen, which runs FlashAttention.
_KERNEL_DTYPES = (torch.bfloat16, torch.float16)
_KERNEL_MOST_DIMENSIONS = 256
_KERNEL_LEAST_CAPABILITY = (8, 0)


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
    if _takes_kernel(query, dropout):
        return _attend_at_once(query, key, value, document_lengths, scaling, sliding_window), None
    if query.is_cuda:
        # Of SDPA's kernels only some share keys among heads, and those are not there for fp32 or with a mask: what is
        # left would hold all scores of a row at once.
        key, value = (share_among_heads(tensor, query.shape[1]) for tensor in (key, value))
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


def share_among_heads(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Repeat each key-value head for the query heads that share it. Shapes: [1, kv_heads, …] -> [1, heads, …]."""
    return tensor.repeat_interleave(heads // tensor.shape[1], dim=1)


def register_packed_attention() -> None:
    """Make the implementation known to transformers. No mask function goes with it: models then build none."""
    AttentionInterface.register(PACKED_ATTENTION, packed_attention)


def _takes_kernel(query: torch.Tensor, dropout: float) -> bool:
    """Whether one kernel can do all rows. Its backward pass sums in any order, so a deterministic run goes without."""
    return (
        query.is_cuda
        and _computed_in(query) in _KERNEL_DTYPES
        and dropout == 0.0
        and query.shape[-1] <= _KERNEL_MOST_DIMENSIONS
        and query.shape[-1] % 8 == 0
        and not torch.are_deterministic_algorithms_enabled()
        and _has_kernel(query.device)
    )


def _computed_in(query: torch.Tensor) -> torch.dtype:
    """The number format of attention: autocast's, where weights are fp32, or that of the weights."""
    kind = query.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else query.dtype


@cache
def _has_kernel(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= _KERNEL_LEAST_CAPABILITY


def _attend_at_once(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    document_lengths: tuple[int, ...],
    scaling: float | None,
    sliding_window: int | None,
) -> torch.Tensor:
    """Attend within all rows by one kernel. Shapes as in packed_attention; returns [1, tokens, heads, d]."""
    bounds, longest = _row_bounds(document_lengths, query.device), max(document_lengths)
    # Norms and rotations leave fp32 behind under autocast, which does not know the kernel.
    query, key, value = (tensor.to(_computed_in(query)) for tensor in (query, key, value))
    # The kernel counts the positions before a token, SDPA's window counts the token too.
    before = -1 if sliding_window is None else sliding_window - 1
    # cuDNN, which torch takes first on newer GPUs, would plan anew for the lengths of every micro-batch.
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        attended = varlen_attn(
            query[0].transpose(0, 1),
            key[0].transpose(0, 1),
            value[0].transpose(0, 1),
            bounds,
            bounds,
            longest,
            longest,
            scale=scaling,
            window_size=(before, 0),
            enable_gqa=key.shape[1] != query.shape[1],
        )
    assert isinstance(attended, torch.Tensor), "nothing but the output was asked for"
    return attended[None]


@lru_cache(maxsize=4)
def _row_bounds(document_lengths: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Where rows begin and end, int32 [rows + 1]: the same for all layers of a micro-batch."""
    return torch.tensor([0, *accumulate(document_lengths)], dtype=torch.int32, device=device)


def _window_mask(query: torch.Tensor, sliding_window: int | None) -> torch.Tensor | None:
    length = query.shape[2]
    if sliding_window is None or length <= sliding_window:
        return None
    allowed = torch.ones(length, length, dtype=torch.bool, device=query.device)
    return allowed.tril().triu(diagonal=1 - sliding_window)
