"""Cross-entropy over the learned positions only, in chunks, inside the model's forward.

The causal LM's forward is replaced once, before peft wraps it. It calls `lm_head` as a module, so that hooks of
adapters and of sharding keep working, and never holds the logits of more than one chunk.
"""

from __future__ import annotations

from types import MethodType

import torch
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

# Upper bound of one chunk's fp32 logits.
_CHUNK_BYTES = 256 * 1024 * 1024
_BYTES_PER_LOGIT = 4


def replace_forward(model: PreTrainedModel, chunk_positions: int | None = None) -> None:
    """Give the causal LM a forward that returns the summed loss of packed rows instead of logits."""
    if chunk_positions is None:
        chunk_positions = max(1, _CHUNK_BYTES // (_BYTES_PER_LOGIT * model.config.vocab_size))

    def forward(
        self: PreTrainedModel,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        document_lengths: tuple[int, ...],
        prediction_positions: torch.Tensor,
        targets: torch.Tensor,
        **_unused: object,
    ) -> CausalLMOutputWithPast:
        hidden = hidden_states(self, input_ids, position_ids, document_lengths)
        loss = summed_cross_entropy(
            self.get_output_embeddings(), hidden[prediction_positions], targets, chunk_positions
        )
        # A rank without learned positions must still reach every parameter, or the other ranks wait for its gradients.
        loss = loss + hidden.sum() * 0.0 if prediction_positions.numel() == 0 else loss
        return CausalLMOutputWithPast(loss=loss, logits=None)

    model.forward = MethodType(forward, model)


def hidden_states(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    position_ids: torch.Tensor,
    document_lengths: tuple[int, ...],
) -> torch.Tensor:
    """Last hidden states [tokens, hidden] of packed rows. The cache stays off: with it rows would see each other."""
    decoder = getattr(model, model.base_model_prefix)
    outputs = decoder(
        input_ids=input_ids, position_ids=position_ids, use_cache=False, document_lengths=document_lengths
    )
    states: torch.Tensor = outputs.last_hidden_state[0]
    return states


def summed_cross_entropy(
    lm_head: torch.nn.Module, hidden: torch.Tensor, targets: torch.Tensor, chunk_positions: int
) -> torch.Tensor:
    """Sum of the cross-entropy over positions, fp32. Shapes: hidden [positions, hidden], targets [positions]."""
    if len(targets) <= chunk_positions:
        return _chunk_loss(lm_head, hidden, targets)
    # Several chunks: each one's logits are thrown away and computed again in the backward pass.
    losses = [
        checkpoint(_chunk_loss, lm_head, part, wanted, use_reentrant=False)
        for part, wanted in zip(
            torch.split(hidden, chunk_positions), torch.split(targets, chunk_positions), strict=True
        )
    ]
    return torch.stack(losses).sum()


def _chunk_loss(lm_head: torch.nn.Module, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    logits = lm_head(hidden)
    return cross_entropy(logits.float(), targets, reduction="sum")
