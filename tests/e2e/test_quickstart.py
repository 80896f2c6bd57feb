"""The quickstart's way, step by step as `make quickstart` goes it: the tuned model answers requests it never saw."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from examples.quickstart import answers, base_model, run
from examples.quickstart.environment import Environment
from tests.e2e.jobs import Jobs
from tests.e2e.side_by_side import side_by_side


@side_by_side
def test_the_quickstart_takes_the_model_from_chance_to_over_85_percent(jobs: Jobs) -> None:
    environment = jobs.environment
    base = base_model.ensure_base_model()
    run.upload_inputs(environment.store, base)
    run.submit(environment)
    with tempfile.TemporaryDirectory() as folder, watched(environment) as output:
        run.follow(environment)
        run.pull(environment, Path(folder, "model"))
        comparison = answers.compare(base, Path(folder, "model"))
        output.seek(0)
        rows = re.findall(r"Training +base +LoRA +cpu +(\d+)/\d+ +([\d.]+) +(\w+)", output.read())

    steps, losses, etas = (set(column) for column in zip(*rows, strict=True))
    assert min(len(steps), len(losses), len(etas)) >= 3, "step, loss and ETA move while one watches"
    assert comparison.accuracy_before <= 0.2
    assert comparison.accuracy_after >= 0.85


@contextmanager
def watched(environment: Environment) -> Iterator[IO[str]]:
    """What `kubectl get -w` prints meanwhile."""
    metadata = run.read_job(environment.store)["metadata"]
    command = ["kubectl", "-n", metadata["namespace"], "get", "ftj", metadata["name"], "-w"]
    with tempfile.TemporaryFile("w+") as output:
        watch = subprocess.Popen(command, env=environment.variables, stdout=output)
        try:
            yield output
        finally:
            watch.terminate()
            watch.wait()
