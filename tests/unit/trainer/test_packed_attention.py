"""The kernel that takes all rows at once is asked for the same attention as one call a row.

It runs on GPUs alone, so a reference of its documented meaning stands in for it: torch.nn.attention.varlen.
"""

from __future__ import annotations

import pytest
import torch

from finetune_trainer import attention
from finetune_trainer.attention import packed_attention, share_among_heads

LENGTHS = (5, 1, 9, 17)


def attend_by_definition(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> torch.Tensor:
    """Scores, mask, softmax, row by row; [tokens, heads, d] in and out."""
    assert (max_q, max_k) == (max(LENGTHS), max(LENGTHS))
    groups = query.shape[1] // key.shape[1]
    assert enable_gqa == (groups > 1)
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    outputs = []
    for start, end in zip(cu_seq_q.tolist(), cu_seq_k.tolist()[1:], strict=False):
        q, k, v = (tensor[start:end].transpose(0, 1) for tensor in (query, key, value))
        scores = q @ k.transpose(1, 2) * (scale if scale is not None else q.shape[-1] ** -0.5)
        distance = torch.arange(end - start)[:, None] - torch.arange(end - start)[None]
        before, after = window_size
        hidden = distance < -after if after >= 0 else torch.zeros_like(distance, dtype=torch.bool)
        hidden |= distance > before if before >= 0 else False
        outputs.append((scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v).transpose(0, 1))
    return torch.cat(outputs)


@pytest.mark.parametrize("sliding_window", [None, 4], ids=["all before", "the last four"])
@pytest.mark.parametrize("key_value_heads", [4, 2], ids=["as many", "in groups"])
@pytest.mark.parametrize("scaling", [None, 0.3], ids=["usual scale", "the model's own"])
def test_all_rows_at_once_are_the_rows_one_by_one(
    sliding_window: int | None, key_value_heads: int, scaling: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    query = torch.randn(1, 4, sum(LENGTHS), 8)
    key, value = (torch.randn(1, key_value_heads, sum(LENGTHS), 8) for _ in range(2))

    def attend() -> torch.Tensor:
        output, _ = packed_attention(
            torch.nn.Identity(),
            query,
            key,
            value,
            None,
            document_lengths=LENGTHS,
            scaling=scaling,
            sliding_window=sliding_window,
        )
        return output

    one_by_one = attend()
    monkeypatch.setattr(attention, "_takes_kernel", lambda query, dropout: True)
    monkeypatch.setattr(attention, "varlen_attn", attend_by_definition)
    at_once = attend()
    assert at_once.shape == one_by_one.shape
    torch.testing.assert_close(at_once, one_by_one, rtol=1e-5, atol=1e-6)


def test_the_kernel_gets_what_autocast_computes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained weights are fp32: queries and keys come out of norms and rotations as fp32."""
    seen = []

    def note(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: object, **__: object
    ) -> torch.Tensor:
        seen.append({query.dtype, key.dtype, value.dtype})
        return query

    monkeypatch.setattr(attention, "_takes_kernel", lambda query, dropout: True)
    monkeypatch.setattr(attention, "varlen_attn", note)
    tensor = torch.zeros(1, 2, sum(LENGTHS), 8)
    with torch.autocast("cpu", torch.bfloat16):
        packed_attention(
            torch.nn.Identity(), tensor, tensor, tensor.bfloat16(), None, document_lengths=LENGTHS
        )
    assert seen == [{torch.bfloat16}]


def test_heads_that_share_keys_may_have_them_each() -> None:
    torch.manual_seed(0)
    query = torch.randn(1, 6, 5, 8)
    key, value = (torch.randn(1, 2, 5, 8) for _ in range(2))
    attend = torch.nn.functional.scaled_dot_product_attention
    shared = attend(query, key, value, is_causal=True, enable_gqa=True)
    each = attend(query, share_among_heads(key, 6), share_among_heads(value, 6), is_causal=True)
    torch.testing.assert_close(each, shared)


def test_a_cpu_takes_one_call_a_row() -> None:
    assert not attention._takes_kernel(torch.zeros(1, 1, 1, 64, dtype=torch.bfloat16), 0.0)
