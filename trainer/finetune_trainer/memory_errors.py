"""Recognises that memory is used up, on a GPU and on a CPU, and says what was tried and what to lower. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from finetune_trainer.errors import OutOfMemory
from finetune_trainer.micro_batch_bound import MicroBatchBound

_GPU_REMEDY = "use GPUs with more memory"
_CPU_REMEDY = "raise spec.resources.memory"


def out_of_memory(error: Exception) -> OutOfMemory | None:
    """Name an error that says so, wherever it came from; None for any other error."""
    found = _used_up(error)
    if found is None:
        return None
    what, remedy = found
    return OutOfMemory(
        f"{what}. Lower spec.training.microBatchTokens, shorten rows with spec.dataset.preparation.maxLength, or "
        f"{remedy}."
    )


@contextmanager
def naming_micro_batch(
    bound: MicroBatchBound, longest_row_tokens: int, finished_steps: Callable[[], int]
) -> Iterator[None]:
    """Raise OutOfMemory with the micro-batch that was tried, and whether a smaller one could help."""
    try:
        yield
    except Exception as error:
        found = _used_up(error)
        if found is None:
            raise
        sentence = _training_sentence(*found, bound, longest_row_tokens)
        raise OutOfMemory(sentence, step=finished_steps()) from error


def _training_sentence(what: str, remedy: str, bound: MicroBatchBound, longest_row_tokens: int) -> str:
    others = (
        f"shorten rows with spec.dataset.preparation.maxLength (the longest has {longest_row_tokens} tokens), set "
        f"spec.training.gradientCheckpointing to Enabled, or {remedy}"
    )
    if bound.tokens <= longest_row_tokens:
        return (
            f"{what} with {bound.describe()}, which cannot be halved any more: the longest row alone is no shorter. "
            f"{others[0].upper()}{others[1:]}."
        )
    return f"{what} with {bound.describe()}. Lower spec.training.microBatchTokens; if that does not help, {others}."


def _used_up(error: Exception) -> tuple[str, str] | None:
    text = str(error)
    detail = f" ({text.splitlines()[0].rstrip('.')})" if text else ""
    if type(error).__name__ == "OutOfMemoryError" or "CUDA out of memory" in text:
        return f"The GPU's memory is used up{detail}", _GPU_REMEDY
    if isinstance(error, MemoryError) or "can't allocate memory" in text:
        return f"The pod's memory is used up{detail}", _CPU_REMEDY
    return None
