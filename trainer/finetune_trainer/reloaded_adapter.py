"""Proof that an adapter is what was trained, where no merged model shows it: peft loads what was uploaded."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict

from finetune_api.base import ApiModel
from finetune_trainer.data.step_batches import PackedRows
from finetune_trainer.errors import StageError, UserError
from finetune_trainer.streamed_model import open_streamed_adapter
from finetune_trainer.tensor_files import TensorFiles, tensor_bytes

logger = logging.getLogger(__name__)

# Virtual tokens stand before every row; only attention that keeps a cache and a mask has a place for them.
_ATTENTION = "sdpa"


class AdapterCheck(ApiModel):
    """How much was looked at."""

    tensors: int
    rows: int


@torch.no_grad()
def check_reloaded_adapter(
    base: Path, adapter: Path, trained: Path, rows: PackedRows, labels: Sequence[str] | None = None
) -> AdapterCheck:
    """Load the adapter on the base and run it. Raises UserError unless it is, byte for byte, what was trained."""
    batch = rows_of_one_length(rows)
    with TensorFiles(base) as files, TensorFiles(trained) as wanted:
        model = open_streamed_adapter(base, files, adapter, labels=labels, attention=_ATTENTION)
        tensors = ensure_adapter_equal(model, wanted)
        ensure_logits_finite(model, batch, labels)
    logger.info(
        "the adapter was loaded again: %d tensors as trained, logits of %d rows finite", tensors, len(batch)
    )
    return AdapterCheck(tensors=tensors, rows=len(batch))


def ensure_adapter_equal(model: PeftModel, trained: TensorFiles) -> int:
    """Raise unless the adapter in the model has the trained tensors and no others; how many they are."""
    # save_embedding_layers=False: peft would otherwise look the base model up on the hub.
    loaded = get_peft_model_state_dict(model, save_embedding_layers=False)
    if odd := sorted(loaded.keys() ^ set(trained)):
        raise _not_as_trained(f"tensor {odd[0]} is missing or superfluous")
    for name, tensor in loaded.items():
        if not torch.equal(tensor_bytes(tensor.cpu()), tensor_bytes(trained.load(name))):
            raise _not_as_trained(f"tensor {name} is another one")
    return len(loaded)


def ensure_logits_finite(model: PeftModel, batch: torch.Tensor, labels: Sequence[str] | None) -> None:
    """Raise unless the rows [rows, tokens] have logits that are numbers."""
    if labels is None:
        # The last position has seen all the others.
        logits = model(input_ids=batch, attention_mask=torch.ones_like(batch), logits_to_keep=1).logits
    else:
        # No row is padded, so it does not matter which token pads; transformers wants one.
        if model.config.pad_token_id is None:
            model.config.pad_token_id = 0
        logits = model(input_ids=batch, attention_mask=torch.ones_like(batch)).logits
    if not torch.isfinite(logits).all():
        raise _not_as_trained("its logits are not finite")


def rows_of_one_length(rows: PackedRows) -> torch.Tensor:
    """The longer half of the rows, cut to the same length at their ends, so that none needs padding: [rows, tokens]."""
    lengths = sorted(rows.document_lengths)
    length = lengths[len(lengths) // 2]
    split = torch.split(rows.input_ids[0], list(rows.document_lengths))
    return torch.stack([row[-length:] for row in split if len(row) >= length])


def _not_as_trained(what: str) -> StageError:
    return UserError(
        f"The adapter, loaded again, is not what was trained: {what}. Nothing was published. Delete and re-apply the "
        "FineTuneJob; if it happens again, report it."
    )
