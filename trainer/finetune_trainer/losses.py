"""The loss inside the model's forward: cross-entropy over the learned positions only, in chunks.

The model's forward is replaced once, before peft wraps it. It calls the output head as a module, so that hooks of
adapters and of sharding keep working, and never holds the logits of more than one chunk.
"""

from __future__ import annotations

from types import MethodType
from typing import TypedDict

import torch
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from finetune_api.spec import Task
from finetune_trainer.cross_entropy import consume_logits
from finetune_trainer.data.step_batches import LearnedPositions

# Upper bound of one chunk's fp32 logits.
_CHUNK_BYTES = 256 * 1024 * 1024
_BYTES_PER_LOGIT = 4


class LossOutput(TypedDict):
    """What the replaced forward returns. No key is called `loss`: peft's AdaLoRA would add its own term there."""

    summed_loss: torch.Tensor
    """fp32 scalar, with its gradient."""
    position_losses: torch.Tensor
    """fp32 [positions], without."""
    predictions: torch.Tensor
    """int64 [positions]: the likeliest class; empty for language models, which have too many."""


def replace_forward(
    model: PreTrainedModel, task: Task = Task.CAUSAL_LM, chunk_positions: int | None = None
) -> None:
    """Give the model a forward that returns the summed loss of a micro-batch's learned positions.

    It takes what PackedRows or PaddedRows call model_inputs(), and what peft makes of it: inputs_embeds instead of
    input_ids with virtual tokens before them, or past_key_values.
    """
    if chunk_positions is None:
        chunk_positions = max(1, _CHUNK_BYTES // (_BYTES_PER_LOGIT * output_size(model, task)))

    def forward(
        self: PreTrainedModel,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: object = None,
        inputs_embeds: torch.Tensor | None = None,
        document_lengths: tuple[int, ...] | None = None,
        *,
        learned: LearnedPositions,
        row_length: int,
        **_unused: object,
    ) -> LossOutput:
        placed = {} if document_lengths is None else {"document_lengths": document_lengths}
        # The cache stays off: with it packed rows would see each other.
        outputs = getattr(self, self.base_model_prefix)(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=False,
            **placed,
        )
        # Virtual tokens stand before the row's own.
        hidden = outputs.last_hidden_state[:, -row_length:].flatten(0, 1)
        return learned_loss(output_head(self, task), hidden, learned, task, chunk_positions)

    model.forward = MethodType(forward, model)


def output_head(model: PreTrainedModel, task: Task) -> torch.nn.Module:
    """The last layer: over the vocabulary, or over the classes."""
    head: torch.nn.Module = (
        model.score if task is Task.SEQUENCE_CLASSIFICATION else model.get_output_embeddings()
    )
    return head


def output_size(model: PreTrainedModel, task: Task) -> int:
    """How many logits a position has."""
    size: int = model.config.num_labels if task is Task.SEQUENCE_CLASSIFICATION else model.config.vocab_size
    return size


def learned_loss(
    head: torch.nn.Module, hidden: torch.Tensor, learned: LearnedPositions, task: Task, chunk_positions: int
) -> LossOutput:
    """Sum the loss over the learned positions. Shapes: hidden [tokens, hidden]."""
    chosen = hidden[learned.indices]
    if task is Task.SEQUENCE_CLASSIFICATION:
        logits = head(chosen).float()
        losses = cross_entropy(logits, learned.targets, reduction="none")
        predictions = logits.detach().argmax(dim=-1)
    else:
        losses = chunked_losses(head, chosen, learned, chunk_positions)
        predictions = learned.targets.new_empty(0)
    summed = losses.sum()
    # A rank without learned positions must still reach every parameter, or the other ranks wait for its gradients.
    summed = summed + hidden.sum() * 0.0 if learned.indices.numel() == 0 else summed
    return LossOutput(summed_loss=summed, position_losses=losses.detach(), predictions=predictions)


def chunked_losses(
    head: torch.nn.Module, hidden: torch.Tensor, learned: LearnedPositions, chunk_positions: int
) -> torch.Tensor:
    """Cross-entropy of each position, fp32 [positions]. Shapes: hidden [positions, hidden].

    Every rank calls the head equally often: where its weights are sharded, each call brings them together.
    """
    most = max(len(learned.targets), learned.most_of_any_rank)
    count = max(1, -(-most // chunk_positions))
    if count == 1:
        return _chunk_losses(head, hidden, learned.targets)
    # Several chunks: each one's logits are thrown away and computed again in the backward pass.
    losses = [
        checkpoint(_chunk_losses, head, part, wanted, use_reentrant=False)
        for part, wanted in zip(
            torch.tensor_split(hidden, count), torch.tensor_split(learned.targets, count), strict=True
        )
    ]
    return torch.cat(losses)


def _chunk_losses(head: torch.nn.Module, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return consume_logits(head(hidden).float(), targets)
