"""Job files as the operator mounts them."""

from __future__ import annotations

from typing import Any

from finetune_api.job_file import JobFile
from tests.builders.jobs import make_manifest


def make_job_file(stage: str = "train", **changes: Any) -> JobFile:
    """The first attempt of a stage; `changes` as in make_manifest."""
    fields = {
        "name": "tuned",
        "namespace": "tests",
        "uid": "0123456789abcdef",
        "trainerImage": "trainer:test",
    }
    spec = make_manifest(**changes)["spec"]
    return JobFile.model_validate({**fields, "stage": stage, "attempt": 1, "spec": spec})
