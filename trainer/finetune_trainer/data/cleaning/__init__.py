"""What is done to the text of a row before it is tokenised, and why a row is left out for what it says.

The Cleaner is built once from `dataset.preparation` and travels to the worker processes.
"""

from finetune_trainer.data.cleaning.cleaner import Cleaned, Cleaner

__all__ = ["Cleaned", "Cleaner"]
