"""The merged model: cast(base, as training changed it), from the unquantised base, one tensor at a time.

Everything before the cast is computed in fp32. What training did not touch stays as it is, byte for byte.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from finetune_api.spec import MergedPrecision, Task
from finetune_trainer.errors import UserError
from finetune_trainer.merging.changes import Changes
from finetune_trainer.tensor_files import TensorFiles, TensorPlan, write_sharded
from finetune_trainer.tensor_names import CLASS_HEAD, INPUT_EMBEDDING, OUTPUT_HEAD

_TARGET_DTYPES = {MergedPrecision.BF16: torch.bfloat16, MergedPrecision.FP32: torch.float32}
_SHARD_UNITS = {"MB": 10**6, "GB": 10**9}


class MergedModel:
    """The merged tensors, made on demand.

    `tied_embeddings`: the base's output head is its input embedding. Where training made two tensors of them,
    `is_untied` says so, and both are written.
    """

    def __init__(
        self,
        base: TensorFiles,
        changes: Changes,
        precision: MergedPrecision,
        *,
        tied_embeddings: bool,
        task: Task = Task.CAUSAL_LM,
    ) -> None:
        self._base = base
        self._changes = changes
        self._dtype = _TARGET_DTYPES.get(precision)
        self._base_dtype = _commonest_dtype(base.plan(name) for name in base)
        is_tied = tied_embeddings and INPUT_EMBEDDING in base and task is Task.CAUSAL_LM
        is_touched = not changes.names.isdisjoint({OUTPUT_HEAD, INPUT_EMBEDDING})
        self.is_untied = is_tied and is_touched and not changes.keeps_tie
        self._sources = decide_sources(base, changes, task, is_tied=is_tied, is_untied=self.is_untied)
        self.plans = {name: self._plan(name) for name in sorted(self._sources)}

    @property
    def adapted_dtypes(self) -> set[torch.dtype]:
        """Number formats of the tensors that training changed."""
        return {self.plans[name].dtype for name in self._changes.names if name in self.plans}

    @property
    def main_dtype(self) -> torch.dtype:
        """The number format of most of the weights."""
        return _commonest_dtype(self.plans.values())

    def tensor(self, name: str) -> torch.Tensor:
        """One merged tensor."""
        dtype = self.plans[name].dtype
        if (replacement := self._changes.replaced.get(name)) is not None:
            return replacement.load().to(dtype)
        source = self._sources[name]
        assert source is not None, name
        weight = self._base.load(source)
        adjustment = self._changes.adjusted.get(name)
        return (weight if adjustment is None else adjustment.apply(weight)).to(dtype)

    def _plan(self, name: str) -> TensorPlan:
        source = self._sources[name]
        if source is None:
            dtype, shape = self._base_dtype, self._changes.replaced[name].shape
        else:
            plan = self._base.plan(source)
            dtype, shape = plan.dtype, plan.shape
        is_cast = self._dtype is not None and dtype.is_floating_point
        return TensorPlan(name, self._dtype if is_cast and self._dtype else dtype, shape)


def decide_sources(
    base: TensorFiles, changes: Changes, task: Task, *, is_tied: bool, is_untied: bool
) -> Mapping[str, str | None]:
    """Which of the base's tensors each merged one comes from; None: from none. Raises UserError for an unknown name.

    `is_tied`: the base's output head is its input embedding. `is_untied`: the merged model's is not.
    """
    sources: dict[str, str | None] = {name: name for name in base}
    if task is Task.SEQUENCE_CLASSIFICATION:
        sources.pop(OUTPUT_HEAD, None)
        sources[CLASS_HEAD] = None
    elif is_tied:
        # A head that stands in a tied base's files all the same is read by nobody.
        sources.pop(OUTPUT_HEAD, None)
        if is_untied:
            sources[OUTPUT_HEAD] = INPUT_EMBEDDING
    # What was trained as one tensor may stand in the adapter under both its names.
    shared = {OUTPUT_HEAD} if changes.keeps_tie else set()
    unknown = sorted(changes.names - sources.keys() - shared)
    if not unknown:
        return sources
    if changes.is_whole:
        # The base's files name their tensors in another way, and all there is to know is among those trained.
        return dict.fromkeys(changes.replaced)
    raise UserError(
        f"The adapter changes {unknown[0]}, which the base model's files do not have under that name, so it "
        "cannot be merged. Set spec.output.merged.enabled to false: the adapter works without merging."
    )


def write_merged(model: MergedModel, directory: Path, max_shard_size: str) -> None:
    """Write the merged weights in bounded memory: one tensor at a time."""
    write_sharded(directory, model.plans, model.tensor, parse_shard_size(max_shard_size))


def parse_shard_size(text: str) -> int:
    """Bytes of `5GB` or `500MB`."""
    return int(text[:-2]) * _SHARD_UNITS[text[-2:]]


def _commonest_dtype(plans: Iterable[TensorPlan]) -> torch.dtype:
    sizes: Counter[torch.dtype] = Counter()
    for plan in plans:
        sizes[plan.dtype] += plan.size_bytes
    return sizes.most_common(1)[0][0]
