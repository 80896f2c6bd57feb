"""What a job, its sources and its model make of a data request: the same for the stage and for the preview."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from finetune_api.spec import Dataset, Task
from finetune_trainer.cgroup import usable_cpus
from finetune_trainer.data.encoding import EncoderSettings, ExampleEncoder
from finetune_trainer.data.pipeline import DataRequest
from finetune_trainer.data.sources import LocalSource
from finetune_trainer.row_lengths import decide_max_length, refuse_long_rows

logger = logging.getLogger(__name__)


def build_data_request(
    dataset: Dataset,
    task: Task,
    labels: tuple[str, ...],
    seed: int,
    sources: Sequence[LocalSource],
    words: tuple[tuple[str, ...], ...],
    *,
    model: str,
    tokenizer: Path,
    context_length: int | None,
    virtual_tokens: int = 0,
) -> DataRequest:
    """Decide lengths and chat template, and load the tokenizer, which stands in a folder. Raises UserError.

    `model` is what messages call the model's own template; dataset.chatTemplate goes before that.
    """
    max_length = decide_max_length(dataset.preparation, context_length, virtual_tokens)
    refuse_long_rows(context_length, max_length, virtual_tokens)
    own_template = dataset.chat_template
    if own_template is not None:
        logger.info("chat template: dataset.chatTemplate replaces the model's own")
    encoder = EncoderSettings(
        tokenizer_directory=tokenizer,
        chat_template=own_template,
        template_origin="dataset.chatTemplate" if own_template is not None else model,
        loss_on=dataset.loss_on,
        labels=labels,
    )
    return DataRequest(
        dataset=dataset,
        task=task,
        labels=labels,
        seed=seed,
        sources=tuple(sources),
        encoder=ExampleEncoder.build(encoder),
        max_length=max_length,
        words=words,
        processes=usable_cpus(),
    )
