"""A real cluster with real pods, the operator installed by its chart, and a store: one of each for the whole run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from examples.quickstart.environment import Environment, start_dev_cluster
from examples.quickstart.installation import ensure_restricted_namespace, install_operator
from examples.quickstart.run import credentials_secret, ensure_bucket, s3_client
from tests.builders.tiny_models import make_tokenizer, write_model
from tests.e2e.jobs import Jobs

BUCKET = "e2e"


@pytest.fixture(scope="session")
def environment() -> Iterator[Environment]:
    """The one-machine cluster with four stand-in GPUs and the operator in a restricted namespace.

    A cluster that was there before (`make cluster-up`) stays; one that was started here goes.
    """
    was_running = devcluster("status") == 0
    environment = start_dev_cluster("--gpus", "4")
    install_operator(environment, "progress.minIntervalSeconds=1")
    os.environ["PATH"] = environment.variables["PATH"]
    yield environment
    if not was_running:
        assert devcluster("down") == 0


def devcluster(command: str) -> int:
    """Run a command of the dev cluster's; its exit status."""
    return subprocess.run([sys.executable, "-m", "devcluster", command], stdout=subprocess.DEVNULL).returncode


@pytest.fixture(scope="session")
def s3(environment: Environment) -> Any:
    """A plain boto3 client of the store, with the bucket in place."""
    client = s3_client(environment.store)
    ensure_bucket(client, BUCKET)
    return client


@pytest.fixture(scope="session")
def tiny_base(s3: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Qwen3 with its own tokenizer, also at s3://e2e/base."""
    folder = write_model(tmp_path_factory.mktemp("base"), vocab_size=len(make_tokenizer()))
    for file in folder.iterdir():
        s3.upload_file(str(file), BUCKET, f"base/{file.name}")
    rows = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in training_rows())
    s3.put_object(Bucket=BUCKET, Key="data/train.jsonl", Body=rows.encode())
    return folder


def training_rows(count: int = 64) -> Iterator[dict[str, Any]]:
    """Rows of different lengths, in two languages."""
    for number in range(count):
        question = (
            f"Where is parcel {number}? " * (1 + number % 4)
            if number % 2
            else f"订单{number}在哪里？" * (1 + number % 3)
        )
        answer = f"Parcel {number} is on its way." if number % 2 else f"订单{number}正在路上。"
        yield {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


@pytest.fixture
def jobs(environment: Environment, tiny_base: Path) -> Iterator[Jobs]:
    """A restricted namespace of the test's own, with the credentials Secret, and FineTuneJobs in it."""
    namespace = f"e2e-{uuid.uuid4().hex[:8]}"
    ensure_restricted_namespace(environment, namespace)
    jobs = Jobs(environment, namespace, BUCKET)
    secret = credentials_secret(environment.store, jobs.manifest("any"))
    environment.run("kubectl", "apply", "-f", "-", stdin=yaml.safe_dump(secret), quiet=True)
    yield jobs
    environment.run("kubectl", "delete", "namespace", namespace, "--wait=false", quiet=True)
