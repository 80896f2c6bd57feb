"""A bucket with a base model and rows, and prepare jobs on them, run inside the test's own process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from finetune_api.job_file import JobFile
from finetune_api.spec import Store
from finetune_api.termination import TerminationMessage
from finetune_trainer import prepare
from tests.builders.jobs import make_manifest

ROWS = [
    {
        "messages": [
            {"role": "user", "content": f"Where is order {n}?"},
            {"role": "assistant", "content": "order_status"},
        ]
    }
    for n in range(20)
]


class Workbench:
    """A bucket with a model and data, and jobs on them."""

    def __init__(self, folder: Path, bucket: str, settings: Store) -> None:
        self.folder = folder
        self.bucket = bucket
        self.settings = settings

    @property
    def model(self) -> Path:
        """The model's folder behind the server."""
        return self.folder / "models/base"

    def write_rows(self, rows: list[Any], name: str = "train.jsonl") -> None:
        """Put rows into the bucket."""
        path = self.folder / name
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")

    def job(self, uid: str = "0123456789abcdef", **changes: Any) -> JobFile:
        """A job on the bucket; `changes` as in make_manifest."""
        spec = make_manifest(
            **{
                "model__source": f"s3://{self.bucket}/models/base",
                "dataset__train": [{"source": f"s3://{self.bucket}/train.jsonl"}],
                "output__uri": f"s3://{self.bucket}/support-bot",
                "output__store": self.settings.model_dump(mode="json", exclude_none=True),
                **changes,
            }
        )["spec"]
        return JobFile.model_validate(
            {
                "name": "support-bot",
                "namespace": "ml",
                "uid": uid,
                "stage": "prepare",
                "attempt": 1,
                "trainerImage": "trainer:dev",
                "spec": spec,
            }
        )

    def run(self, **changes: Any) -> TerminationMessage:
        """Prepare a job."""
        return prepare.run(self.job(**changes), Path("job.json"))
