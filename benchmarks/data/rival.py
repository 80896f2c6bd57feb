"""The same rows by `datasets.map(batched=True, num_proc=2)` with transformers' chat template; prints JSON.

What is timed is `map` alone: neither imports nor the reading of the file, which ours has to do inside its time.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import datasets
from transformers import PreTrainedTokenizerFast

from finetune_trainer.data.masks import trl_template_directory


def main(arguments: list[str]) -> int:
    """Tokenise a file of rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args(arguments)
    shutil.rmtree(options.work, ignore_errors=True)
    datasets.disable_progress_bars()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(options.tokenizer)
    template = (trl_template_directory() / "qwen3_training.jinja").read_text(encoding="utf-8")

    def tokenise(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        encoded = tokenizer.apply_chat_template(
            batch["messages"], chat_template=template, return_dict=True, return_assistant_tokens_mask=True
        )
        return {"input_ids": encoded["input_ids"], "learned": encoded["assistant_masks"]}

    rows = datasets.load_dataset(
        "json", data_files=str(options.rows), split="train", cache_dir=str(options.work)
    )
    began = time.monotonic()
    mapped = rows.map(tokenise, batched=True, num_proc=options.processes, remove_columns=["messages"])
    seconds = time.monotonic() - began
    tokens = sum(len(ids) for ids in mapped["input_ids"])
    learned = sum(sum(mask) for mask in mapped["learned"])
    print(json.dumps({"seconds": seconds, "rows": len(mapped), "tokens": tokens, "learned": learned}))
    shutil.rmtree(options.work)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
