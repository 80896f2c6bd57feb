"""Full fine-tuning: the trained weights take the place of the base's."""

from __future__ import annotations

from finetune_trainer.merging.changes import Changes, Replacement
from finetune_trainer.tensor_files import TensorFiles
from finetune_trainer.tensor_names import OUTPUT_HEAD


def read_full_changes(files: TensorFiles) -> Changes:
    """Every tensor of `files`, under transformers' names. A tied head is not among them."""
    replaced = {name: Replacement(files, name) for name in files}
    return Changes({}, replaced, keeps_tie=OUTPUT_HEAD not in replaced, is_whole=True)
