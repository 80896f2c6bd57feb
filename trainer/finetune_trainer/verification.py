"""Proof that a merged model is what was trained, before anything is called done: tensors, then logits on real rows.

Logits are computed by transformers and peft, from the very files that were uploaded; weights are streamed from disk.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from finetune_api.base import ApiModel
from finetune_trainer.data.step_batches import PackedRows
from finetune_trainer.errors import StageError, UserError
from finetune_trainer.merging.merged_model import MergedModel
from finetune_trainer.streamed_model import open_streamed_adapter, open_streamed_model
from finetune_trainer.tensor_files import TensorFiles, tensor_bytes

logger = logging.getLogger(__name__)

# In fp32 nothing but the order of sums differs: little in itself, beside the logits, or beside what training did.
FP32_TOLERANCE = 1e-4
FP32_LOGIT_SHARE = 1e-5
FP32_EFFECT_SHARE = 1e-3
# A 16-bit weight cannot hold what was trained exactly: what is lost must stay small beside what training did.
ROUNDING_SHARE = 0.05
_POSITIONS_AT_ONCE = 512


class LogitComparison(ApiModel):
    """Largest differences of logits over all positions of the compared rows.

    `adapter_effect`: what training changes of the base's. A classifier's base has no head and says 0 for every class.
    """

    rows: int
    tokens: int
    max_difference: float
    adapter_effect: float
    tolerance: float
    is_fp32: bool = False

    @property
    def holds(self) -> bool:
        """Whether the merged model does what was trained. NaN never holds."""
        return self.max_difference <= self.tolerance


def ensure_tensors_equal(merged: MergedModel, directory: Path) -> None:
    """Raise unless every tensor in `directory` is byte for byte what the base and what was trained give."""
    with TensorFiles(directory) as written:
        if set(written) != set(merged.plans):
            odd = sorted(set(written) ^ set(merged.plans))[0]
            raise _mismatch(f"tensor {odd} is missing or superfluous")
        for name in written:
            if written.plan(name) != merged.plans[name]:
                raise _mismatch(f"tensor {name} has another type or shape")
            if not torch.equal(tensor_bytes(written.load(name)), tensor_bytes(merged.tensor(name))):
                raise _mismatch(f"tensor {name} is not base + adapter")


@dataclass(frozen=True)
class Compared:
    """The three folders whose logits are compared, on which rows; with `labels` they are classifiers."""

    base: Path
    trained: Path
    merged: Path
    rows: PackedRows
    labels: Sequence[str] | None = None


def compare_with_adapter(compared: Compared, adapted_dtypes: set[torch.dtype]) -> LogitComparison:
    """Run base, base + adapter (`trained`) and merged over the rows, all in fp32."""
    with TensorFiles(compared.base) as base_files, TensorFiles(compared.merged) as merged_files:
        adapted = open_streamed_adapter(compared.base, base_files, compared.trained, labels=compared.labels)
        merged = open_streamed_model(compared.merged, merged_files, labels=compared.labels)
        # peft wraps the base in place; its adapter is switched off for the base's own logits.
        inner: PreTrainedModel = adapted.get_base_model()
        contenders = (_Contender(inner, without=adapted), _Contender(inner), _Contender(merged))
        return _compare(compared, contenders, adapted_dtypes)


def compare_with_trained(compared: Compared, adapted_dtypes: set[torch.dtype]) -> LogitComparison:
    """Run base, the trained weights and merged over the rows, all in fp32."""
    with ExitStack() as stack:
        # The folder of trained weights has no configuration of its own.
        folders = (
            (compared.base, compared.base),
            (compared.base, compared.trained),
            (compared.merged, compared.merged),
        )
        base, trained, merged = (
            _Contender(
                open_streamed_model(
                    configuration, stack.enter_context(TensorFiles(weights)), labels=compared.labels
                )
            )
            for configuration, weights in folders
        )
        return _compare(compared, (base, trained, merged), adapted_dtypes)


def ensure_logits_agree(comparison: LogitComparison) -> None:
    """Raise unless the difference is within its tolerance."""
    logger.info(
        "logits of the merged model and of what was trained differ by at most %.3g on %d rows (tolerance %.3g; "
        "training changed logits by up to %.3g)",
        comparison.max_difference,
        comparison.rows,
        comparison.tolerance,
        comparison.adapter_effect,
    )
    if not comparison.holds:
        remedy = (
            "the merge went wrong. Report it, and, where the method has an adapter, set"
            if comparison.is_fp32
            else "its number format cannot hold what was learned. Set spec.output.merged.precision to FP32, or, where "
            "the method has an adapter,"
        )
        raise UserError(
            f"The merged model's logits differ from those of what was trained by {comparison.max_difference:.3g}, more "
            f"than {comparison.tolerance:.3g}: {remedy} spec.output.merged.enabled to false and use the adapter."
        )


@dataclass(frozen=True)
class _Contender:
    """A model whose logits are looked at; `without` the adapter that peft put into it."""

    model: PreTrainedModel
    without: PeftModel | None = None

    def states(self, rows: PackedRows, positions: torch.Tensor) -> torch.Tensor:
        """Last hidden states [positions, hidden]. The cache stays off: with it rows would see each other."""
        decoder = getattr(self.model, self.model.base_model_prefix)
        with self._adapter_off():
            outputs = decoder(
                input_ids=rows.input_ids,
                position_ids=rows.position_ids,
                use_cache=False,
                document_lengths=rows.document_lengths,
            )
        states: torch.Tensor = outputs.last_hidden_state[0, positions]
        return states

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """What the head makes of hidden states."""
        head: nn.Module = self.model.get_output_embeddings() or self.model.score
        with self._adapter_off():
            logits: torch.Tensor = head(states)
        return logits

    def _adapter_off(self) -> AbstractContextManager[object]:
        return nullcontext() if self.without is None else self.without.disable_adapter()


@torch.no_grad()
def _compare(
    compared: Compared,
    contenders: tuple[_Contender, _Contender, _Contender],
    adapted_dtypes: set[torch.dtype],
) -> LogitComparison:
    rows = compared.rows
    positions = _compared_positions(rows, compared.labels)
    states = [contender.states(rows, positions) for contender in contenders]
    effect = difference = largest = torch.zeros(())
    for part in torch.split(torch.arange(len(positions)), _POSITIONS_AT_ONCE):
        base, trained, merged = (
            contender.logits(own[part]) for contender, own in zip(contenders, states, strict=True)
        )
        effect = torch.maximum(effect, (trained - base).abs().max())
        difference = torch.maximum(difference, (trained - merged).abs().max())
        largest = torch.maximum(largest, trained.abs().max())
    is_fp32 = adapted_dtypes == {torch.float32}
    return LogitComparison(
        rows=len(rows.document_lengths),
        tokens=rows.input_ids.numel(),
        max_difference=float(difference),
        adapter_effect=float(effect),
        tolerance=decide_tolerance(float(effect), float(largest), is_fp32=is_fp32),
        is_fp32=is_fp32,
    )


def decide_tolerance(effect: float, largest_logit: float, *, is_fp32: bool) -> float:
    """How far logits may be apart. `effect`: by how much training changed any."""
    if not is_fp32:
        return ROUNDING_SHARE * effect
    return max(FP32_TOLERANCE, FP32_LOGIT_SHARE * largest_logit, FP32_EFFECT_SHARE * effect)


def _compared_positions(rows: PackedRows, labels: Sequence[str] | None) -> torch.Tensor:
    """Every position of a language model; a classifier reads the last of each row."""
    if labels is None:
        return torch.arange(rows.input_ids.numel())
    return torch.tensor(rows.document_lengths).cumsum(0) - 1


def _mismatch(what: str) -> StageError:
    return UserError(
        f"The merged model is not what was trained: {what}. Nothing was published. Delete and re-apply the "
        "FineTuneJob; if it happens again, set spec.output.merged.enabled to false, where the method has an adapter, "
        "and report it."
    )
