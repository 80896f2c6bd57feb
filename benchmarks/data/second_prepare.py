"""A whole prepare stage against a real S3 server, twice: the second job finds what the first one prepared."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks.data.corpus import write_rows
from devcluster import S3Server
from finetune_api import names
from finetune_api.job_file import JobFile
from finetune_trainer import prepare
from tests.builders.jobs import make_manifest
from tests.builders.model_folders import write_model_folder


def measure_second_prepare(rows: int, times: int) -> tuple[float, list[float]]:
    """Seconds of the first prepare, and of `times` further jobs with the same data."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(S3Server(folder / "s3"))
        bucket = server.data / "bench"
        bucket.mkdir()
        write_model_folder(bucket / "model")
        write_rows(bucket / "rows.jsonl", rows)
        os.environ[names.ENV_WORK_DIRECTORY] = str(folder / "work")
        os.environ["AWS_ACCESS_KEY_ID"] = server.access_key.identifier
        os.environ["AWS_SECRET_ACCESS_KEY"] = server.access_key.secret
        logging.disable(logging.CRITICAL)
        seconds = [_prepare(server, number) for number in range(times + 1)]
        logging.disable(logging.NOTSET)
    return seconds[0], seconds[1:]


def _prepare(server: S3Server, number: int) -> float:
    job = make_manifest(
        model__source="s3://bench/model",
        dataset__train=[{"source": "s3://bench/rows.jsonl"}],
        output__uri="s3://bench/out",
        output__store={"endpoint": server.endpoint, "region": server.region},
    )
    file = JobFile.model_validate(
        {
            "name": "bench",
            "namespace": "ml",
            "uid": f"{number:016d}",
            "stage": "prepare",
            "attempt": 1,
            "trainerImage": "trainer:dev",
            "spec": job["spec"],
        }
    )
    began = time.monotonic()
    prepare.run(file, Path("job.json"))
    return time.monotonic() - began
