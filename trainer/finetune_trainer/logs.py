"""How the trainer's processes log: one line a record to stderr."""

from __future__ import annotations

import logging
import sys
import warnings

_NOISY = (
    *("botocore", "s3transfer", "urllib3", "accelerate", "transformers"),
    # They log every URL, also those that a hub signs.
    *("httpx2", "httpcore2", "huggingface_hub", "modelscope_hub"),
)


def configure_logging() -> None:
    """Set up the root logger of this process."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)


def quiet_libraries() -> None:
    """No progress bars in a log, and no advice to ourselves from peft and accelerate about their own internals."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft|accelerate)\.")
