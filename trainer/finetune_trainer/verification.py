"""Proof that a merged model is base + adapter, before anything is called done: every tensor, then logits on real rows.

Logits are computed by transformers and peft, from the very files that were uploaded; weights are streamed from disk.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from finetune_api.base import ApiModel
from finetune_trainer.data.step_batches import PackedRows
from finetune_trainer.errors import StageError, UserError
from finetune_trainer.losses import hidden_states
from finetune_trainer.merging import MergedModel
from finetune_trainer.streamed_model import open_streamed_model
from finetune_trainer.tensor_files import TensorFiles, tensor_bytes

logger = logging.getLogger(__name__)

# In fp32 nothing but the order of sums differs.
FP32_TOLERANCE = 1e-4
# A 16-bit weight cannot hold base + delta exactly: what is lost must stay small beside what the adapter does.
ROUNDING_SHARE = 0.05
_POSITIONS_AT_ONCE = 512


class LogitComparison(ApiModel):
    """Largest differences of logits over all positions of the compared rows."""

    rows: int
    tokens: int
    max_difference: float
    adapter_effect: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether the merged model does what base + adapter does. NaN never holds."""
        return self.max_difference <= self.tolerance


def ensure_tensors_equal(merged: MergedModel, directory: Path) -> None:
    """Raise unless every tensor in `directory` is byte for byte what base and adapter give."""
    with TensorFiles(directory) as written:
        if set(written) != set(merged.plans):
            odd = sorted(set(written) ^ set(merged.plans))[0]
            raise _mismatch(f"tensor {odd} is missing or superfluous")
        for name in written:
            if written.plan(name) != merged.plans[name]:
                raise _mismatch(f"tensor {name} has another type or shape")
            if not torch.equal(tensor_bytes(written.load(name)), tensor_bytes(merged.tensor(name))):
                raise _mismatch(f"tensor {name} is not base + adapter")


@torch.no_grad()
def compare_logits(
    base_directory: Path,
    adapter_directory: Path,
    merged_directory: Path,
    rows: PackedRows,
    adapted_dtypes: set[torch.dtype],
) -> LogitComparison:
    """Run base, base + adapter and merged over the rows, all in fp32."""
    with TensorFiles(base_directory) as base_files, TensorFiles(merged_directory) as merged_files:
        # peft wraps the base in place; its adapter is switched off for the base's own logits.
        base = open_streamed_model(base_directory, base_files)
        adapted = PeftModel.from_pretrained(base, adapter_directory).eval()
        merged = open_streamed_model(merged_directory, merged_files)
        inner = adapted.get_base_model()
        with adapted.disable_adapter():
            base_states = _states(inner, rows)
        adapter_states, merged_states = _states(inner, rows), _states(merged, rows)
        head, merged_head = inner.get_output_embeddings(), merged.get_output_embeddings()
        effect = difference = torch.zeros(())
        for part in torch.split(torch.arange(len(base_states)), _POSITIONS_AT_ONCE):
            wanted = head(adapter_states[part])
            effect = torch.maximum(effect, (wanted - head(base_states[part])).abs().max())
            difference = torch.maximum(difference, (wanted - merged_head(merged_states[part])).abs().max())
    is_fp32 = adapted_dtypes == {torch.float32}
    return LogitComparison(
        rows=len(rows.document_lengths),
        tokens=len(base_states),
        max_difference=float(difference),
        adapter_effect=float(effect),
        tolerance=FP32_TOLERANCE if is_fp32 else ROUNDING_SHARE * float(effect),
    )


def ensure_logits_agree(comparison: LogitComparison) -> None:
    """Raise unless the difference is within its tolerance."""
    logger.info(
        "logits of merged and base + adapter differ by at most %.3g on %d rows (tolerance %.3g; the adapter itself "
        "changes logits by up to %.3g)",
        comparison.max_difference,
        comparison.rows,
        comparison.tolerance,
        comparison.adapter_effect,
    )
    if not comparison.holds:
        raise UserError(
            f"The merged model's logits differ from those of base + adapter by {comparison.max_difference:.3g}, more "
            f"than {comparison.tolerance:.3g}: its number format cannot hold what the adapter learned. Set "
            "spec.output.merged.precision to FP32, or spec.output.merged.enabled to false and use the adapter."
        )


def _states(model: PreTrainedModel, rows: PackedRows) -> torch.Tensor:
    return hidden_states(model, rows.input_ids, rows.position_ids, rows.document_lengths)


def _mismatch(what: str) -> StageError:
    return UserError(
        f"The merged model is not base + adapter: {what}. Nothing was published. Delete and re-apply the FineTuneJob; "
        "if it happens again, set spec.output.merged.enabled to false and report it."
    )
