"""What is trained in one comparison: a tiny Qwen3 with random weights, rows of very different lengths, the settings.

Everything is written once; every measured process, ours and the rivals', reads the same files.
"""

from __future__ import annotations

import array
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from finetune_trainer.data.prepared import TokenizedRow, write_rows
from tests.builders.tiny_models import write_model

SHORTEST, LONGEST = 16, 512
# With it a padded batch of eight is about 58 % padding.
_MEDIAN, _SIGMA = 96.0, 0.8
SMALL_VOCABULARY, LARGE_VOCABULARY = 8192, 151_936
# The rows' language: each word has few successors, so that there is something to learn.
_WORDS, _SUCCESSORS = 1024, 4
# Lower ids belong to the tokenizer's own bytes and special tokens.
_FIRST_WORD = 300

# Every linear layer gets an adapter of this size.
LORA_RANK, LORA_ALPHA = 16, 32.0

Precision = Literal["fp32", "bf16"]
Method = Literal["Full", "LoRA"]


@dataclass(frozen=True)
class Workload:
    """The settings that all runs of a comparison share; a file that each of them is given."""

    model: Path
    rows: Path
    precision: Precision = "fp32"
    method: Method = "Full"
    global_batch_size: int = 32
    steps: int = 12
    # Steps before the measurement begins.
    skipped_steps: int = 3
    learning_rate: float = 5e-4
    seed: int = 42
    threads: int = 2
    gradient_checkpointing: bool | None = None
    """None: as each trainer has it by default."""
    device_batch_size: int = 8
    """Rows that a rival without packing computes at once."""
    micro_batch_tokens: int | None = None
    """Tokens that ours computes at once; None: its own default."""

    def save(self, path: Path) -> Path:
        """Write it for the processes."""
        path.write_text(json.dumps(dataclasses.asdict(self), default=str))
        return path

    @classmethod
    def load(cls, path: Path) -> Workload:
        """Read it in a process."""
        fields = json.loads(path.read_text())
        return cls(**{**fields, "model": Path(fields["model"]), "rows": Path(fields["rows"])})


def write_base_model(folder: Path, vocabulary: int = SMALL_VOCABULARY) -> Path:
    """Write the initial weights: hidden 256, four layers, embeddings tied, no dropout anywhere."""
    shape: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "max_position_embeddings": 4096,
    }
    return write_model(folder, "qwen3", **shape)


def draw_lengths(count: int, seed: int = 0) -> list[int]:
    """Lengths of rows in tokens: lognormal, clipped."""
    drawn = np.random.RandomState(seed).lognormal(np.log(_MEDIAN), _SIGMA, count)
    return [int(length) for length in np.clip(drawn, SHORTEST, LONGEST)]


def make_rows(lengths: Sequence[int], learned_share: float, seed: int = 0) -> list[TokenizedRow]:
    """Rows of these lengths; the last `learned_share` of each one's tokens is learned, as an answer is."""
    source = np.random.RandomState(seed)
    successors = source.randint(_WORDS, size=(_WORDS, _SUCCESSORS))
    return [
        TokenizedRow(
            input_ids=array.array("i", _sentence(length, successors, source)),
            learned=bytes(int(position >= round(length * (1 - learned_share))) for position in range(length)),
        )
        for length in lengths
    ]


def write_workload_rows(path: Path, lengths: Sequence[int], learned_share: float) -> Path:
    """Write rows as prepare leaves them."""
    write_rows(path, make_rows(lengths, learned_share))
    return path


def _sentence(
    length: int, successors: np.ndarray[Any, np.dtype[np.int64]], source: np.random.RandomState
) -> list[int]:
    word = int(source.randint(_WORDS))
    words = []
    for choice in source.randint(_SUCCESSORS, size=length):
        words.append(_FIRST_WORD + word)
        word = int(successors[word, choice])
    return words
