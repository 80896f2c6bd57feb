"""One preparation by the project's own pipeline, in a process of its own; prints what it did as JSON."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

from finetune_api.spec import Dataset, LossOn, Task
from finetune_trainer.data.encoding import EncoderSettings, ExampleEncoder
from finetune_trainer.data.pipeline import DataRequest, prepare_data
from finetune_trainer.data.rows import Split
from finetune_trainer.data.sources import LocalFile, LocalSource


def main(arguments: list[str]) -> int:
    """Prepare a file of rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--duplicates", default="None")
    options = parser.parse_args(arguments)
    shutil.rmtree(options.work, ignore_errors=True)
    (options.work / "prepared").mkdir(parents=True)
    began = time.monotonic()
    prepared = prepare_data(_request(options), "0" * 64, options.work / "prepared", options.work)
    seconds = time.monotonic() - began
    report = prepared.report
    print(
        json.dumps(
            {
                "seconds": seconds,
                "rows": report.rows_used,
                "tokens": report.tokens,
                "learned": report.learned_tokens,
            }
        )
    )
    shutil.rmtree(options.work)
    return 0


def _request(options: argparse.Namespace) -> DataRequest:
    dataset = Dataset.model_validate(
        {"train": [{"source": "s3://data/rows.jsonl"}], "preparation": {"duplicates": options.duplicates}}
    )
    files = (LocalFile(options.rows.name, options.rows),)
    source = LocalSource(options.rows.name, "dataset.train[0]", dataset.train[0], Split.TRAIN, files)
    return DataRequest(
        dataset=dataset,
        task=Task.CAUSAL_LM,
        labels=(),
        seed=42,
        sources=(source,),
        encoder=ExampleEncoder.build(
            EncoderSettings(options.tokenizer, None, "the model", LossOn.ASSISTANT, ())
        ),
        max_length=1024,
        words=(),
        processes=options.processes,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
