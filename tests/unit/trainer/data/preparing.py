"""Prepares rows as the stage does, from files in a folder, without a store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.spec import Dataset, LossOn, Task
from finetune_trainer.data.encoding import EncoderSettings, ExampleEncoder
from finetune_trainer.data.pipeline import DataRequest, prepare_data
from finetune_trainer.data.prepared import PreparedRows, split_file_name
from finetune_trainer.data.report import DataReport
from finetune_trainer.data.rows import Split
from finetune_trainer.data.sources import LocalFile, LocalSource
from tests.builders.model_folders import CHATML

Rows = Sequence[object]


@dataclass(frozen=True)
class Prepared:
    """What a preparation left."""

    folder: Path
    report: DataReport
    rows_per_epoch: int
    encoder: ExampleEncoder

    def rows(self, split: Split = Split.TRAIN) -> PreparedRows:
        """The rows of a split."""
        return PreparedRows(self.folder / split_file_name(split))

    def texts(self, split: Split = Split.TRAIN) -> list[str]:
        """Those rows as text."""
        rows = self.rows(split)
        return [self.encoder.decode(list(rows.row_input_ids(row))) for row in range(len(rows))]

    def learned(self, split: Split = Split.TRAIN) -> list[str]:
        """What of those rows is learned."""
        rows = self.rows(split)
        return [
            self.encoder.decode(
                [int(rows.row_input_ids(row)[at]) for at in rows.row_learned(row).nonzero()[0]]
            )
            for row in range(len(rows))
        ]

    def dropped(self) -> dict[str, int]:
        """How many rows were left out, by reason."""
        return {str(each.reason): each.rows for each in self.report.dropped}


class Preparer:
    """Prepares with one model's tokenizer, in folders below `root`."""

    def __init__(self, model: Path, root: Path) -> None:
        self.model = model
        self.root = root
        self._count = 0

    def prepare(
        self,
        train: Rows | Mapping[str, Rows | bytes],
        *,
        validation_rows: Rows | None = None,
        test_rows: Rows | None = None,
        source: Mapping[str, Any] | None = None,
        task: Task = Task.CAUSAL_LM,
        labels: tuple[str, ...] = (),
        template: str | None = CHATML,
        processes: int = 1,
        max_length: int = 1024,
        seed: int = 42,
        words: tuple[tuple[str, ...], ...] = (),
        **dataset: Any,
    ) -> Prepared:
        """Prepare rows, or several files of rows by name, each a source of its own."""
        self._count += 1
        work = self.root / f"work-{self._count}"
        folder = work / "prepared"
        folder.mkdir(parents=True)
        files = dict(train) if isinstance(train, Mapping) else {"train.jsonl": train}
        settings: dict[str, Any] = {
            "train": [{"source": f"s3://data/{name}", **(source or {})} for name in files], **dataset,
        }  # fmt: skip
        sources = [(Split.TRAIN, name, rows) for name, rows in files.items()]
        if validation_rows is not None:
            settings["validation"] = {"sources": [{"source": "s3://data/validation.jsonl"}]}
            sources.append((Split.VALIDATION, "validation.jsonl", validation_rows))
        if test_rows is not None:
            settings["test"] = [{"source": "s3://data/test.jsonl"}]
            sources.append((Split.TEST, "test.jsonl", test_rows))
        parsed = Dataset.model_validate(settings)
        each = [
            *parsed.train,
            *((parsed.validation.sources if parsed.validation else None) or []),
            *(parsed.test or []),
        ]
        local = []
        for (split, name, rows), source_settings in zip(sources, each, strict=True):
            path = work / name
            path.write_bytes(rows if isinstance(rows, bytes) else _lines(rows))
            file = LocalFile(f"s3://data/{name}", path)
            local.append(LocalSource(file.label, f"dataset.{split}", source_settings, split, (file,)))
        settings_of_encoder = EncoderSettings(
            self.model, template, "the model", LossOn(parsed.loss_on), labels
        )
        encoder = ExampleEncoder.build(settings_of_encoder)
        request = DataRequest(
            dataset=parsed,
            task=task,
            labels=labels,
            seed=seed,
            sources=tuple(local),
            encoder=encoder,
            max_length=max_length,
            words=words,
            processes=processes,
        )
        prepared = prepare_data(request, "d" * 64, folder, work)
        return Prepared(folder, prepared.report, prepared.rows_per_epoch, encoder)


def _lines(rows: Rows) -> bytes:
    written = (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
    return "".join(f"{row}\n" for row in written).encode()


def pair(question: str = "q", answer: str = "a") -> dict[str, object]:
    """A row in InputTarget format."""
    return {"question": question, "answer": answer}
