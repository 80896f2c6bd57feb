"""A-6: from the start of a process to the end of its first optimizer step, our rank against a plain script.

The rank is the real one, on a working folder as its launcher lays it out, with a run in a real S3 server.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bars import Bar, median_figure
from benchmarks.data.corpus import write_rows
from benchmarks.trainer.import_profile import read_import_profile
from benchmarks.trainer.processes import ROOT, child_environment
from benchmarks.trainer.workload import write_base_model
from devcluster import S3Server
from finetune_api import names
from finetune_api.job_file import JobFile
from finetune_trainer import launcher, prepare
from finetune_trainer.data.prepared import PreparedRows, split_file_name
from finetune_trainer.data.rows import Split
from finetune_trainer.placement import decide_placement
from finetune_trainer.storage import ObjectStore
from finetune_trainer.work_directory import WorkDirectory
from tests.builders.jobs import make_manifest

ALLOWED_SECONDS = 0.5
OURS, PLAIN, LEAN = "ours", "plain script", "plain script without unused packages"
_ROWS = 400
_THREADS = 2
_POLL_SECONDS = 0.002
_DEADLINE_SECONDS = 180.0
_PLAIN_SCRIPT = Path(__file__).with_name("plain_script.py")
# The script as it were in an environment that has no package it does not need, as ours takes care of itself.
_LEAN_SCRIPT = (
    "import runpy, sys; sys.argv[:1] = []; "
    "from finetune_trainer.unused_packages import leave_out_unused_packages; leave_out_unused_packages(); "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)


@dataclass(frozen=True)
class Start:
    """A process to be started, and the file whose first line says that a step is done."""

    command: tuple[str, ...]
    first_step: Path
    environment: dict[str, str]


def measure_startup(folder: Path, rounds: int) -> Bar:
    """Both take turns; a first start of each, which fills the page cache, does not count."""
    with _prepared_run(folder) as run:
        starts = {OURS: run.rank, PLAIN: run.plain_script, LEAN: run.lean_script}
        for start in starts.values():
            seconds_to_first_step(start())
        samples: dict[str, list[float]] = {name: [] for name in starts}
        for _ in range(rounds):
            for name, start in starts.items():
                samples[name].append(seconds_to_first_step(start()))
        profiles = {name: _import_profile(starts[name]()) for name in (OURS, PLAIN)}
    return Bar(
        "A-6",
        "process start to the first optimizer step, LoRA",
        (
            median_figure("later than the plain script", _later(samples, PLAIN), "s", ALLOWED_SECONDS),
            median_figure("later than it without unused packages", _later(samples, LEAN), "s"),
            *(median_figure(name, seconds, "s") for name, seconds in samples.items()),
        ),
        {"imports": profiles},
    )


def seconds_to_first_step(start: Start) -> float:
    """Start it, wait for its first step, end it."""
    with _started(start, ()) as (process, began):
        _wait_for_first_step(process, start)
        return time.monotonic() - began


def _later(samples: dict[str, list[float]], rival: str) -> list[float]:
    return [ours - theirs for ours, theirs in zip(samples[OURS], samples[rival], strict=True)]


def _import_profile(start: Start) -> dict[str, Any]:
    with _started(start, ("-X", "importtime")) as (process, _):
        _wait_for_first_step(process, start)
    return read_import_profile(_log_of(start).read_text(errors="replace"))


@contextmanager
def _started(start: Start, options: Sequence[str]) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    with _log_of(start).open("wb") as log:
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, *options, *start.command],
            cwd=ROOT,
            env={**os.environ, **child_environment(_THREADS), **start.environment},
            stdout=log,
            stderr=log,
        )
        try:
            yield process, began
        finally:
            process.kill()
            process.wait()


def _wait_for_first_step(process: subprocess.Popen[bytes], start: Start) -> None:
    deadline, file, log = time.monotonic() + _DEADLINE_SECONDS, start.first_step, _log_of(start)
    while not file.exists() or file.stat().st_size == 0:
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{process.args!r} made no step: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(_POLL_SECONDS)


def _log_of(start: Start) -> Path:
    return start.first_step.with_suffix(".log")


# --- what they start with --------------------------------------------------------------------------------------


@dataclass
class _PreparedRun:
    folder: Path
    job: JobFile
    model: Path
    rows: Path
    attempts: int = 0

    def rank(self) -> Start:
        """Our rank on a fresh working folder, as a restarted pod has it."""
        self.attempts += 1
        work = WorkDirectory(self.folder / f"attempt-{self.attempts}")
        work.root.mkdir()
        work.clear_messages()
        job_path = work.root / "job.json"
        job_path.write_text(self.job.model_dump_json())
        store = ObjectStore.open(self.job.spec.output.store)
        launcher.lay_out(self.job, work, store, decide_placement(self.job.spec.parallelism))
        environment = {names.ENV_WORK_DIRECTORY: str(work.root), "RANK": "0", "WORLD_SIZE": "1"}
        return Start(("-m", "finetune_trainer.rank", "--job", str(job_path)), work.metrics, environment)

    def plain_script(self, *before: str) -> Start:
        """The plain script on the same model and the same rows."""
        self.attempts += 1
        marker = self.folder / f"first-step-{self.attempts}"
        return Start((*before, str(_PLAIN_SCRIPT), str(self.model), str(self.rows), str(marker)), marker, {})

    def lean_script(self) -> Start:
        """The same, and what it has no use for is not found."""
        return self.plain_script("-c", _LEAN_SCRIPT)


@contextmanager
def _prepared_run(folder: Path) -> Iterator[_PreparedRun]:
    with ExitStack() as stack:
        server = stack.enter_context(S3Server(folder / "s3"))
        bucket = server.data / "bench"
        bucket.mkdir()
        write_base_model(bucket / "model")
        write_rows(bucket / "rows.jsonl", _ROWS)
        os.environ["AWS_ACCESS_KEY_ID"] = server.access_key.identifier
        os.environ["AWS_SECRET_ACCESS_KEY"] = server.access_key.secret
        os.environ[names.ENV_WORK_DIRECTORY] = str(folder / "prepare")
        logging.disable(logging.CRITICAL)
        job = _job(server)
        prepare.run(job.model_copy(update={"stage": names.Stage.PREPARE}), Path("job.json"))
        run = _PreparedRun(folder, job, bucket / "model", folder / "rows.jsonl")
        prepared = PreparedRows(run.rank().first_step.parent / "data" / split_file_name(Split.TRAIN))
        run.rows.write_text("".join(json.dumps(row) + "\n" for row in _plain_rows(prepared)))
        try:
            yield run
        finally:
            logging.disable(logging.NOTSET)


def _plain_rows(rows: PreparedRows) -> Iterator[dict[str, list[int]]]:
    for row in range(len(rows)):
        ids, learned = rows.row_input_ids(row).tolist(), rows.row_learned(row).tolist()
        labels = [token if wanted else -100 for token, wanted in zip(ids, learned, strict=True)]
        yield {"input_ids": ids, "labels": labels}


def _job(server: S3Server) -> JobFile:
    spec = make_manifest(
        model__source="s3://bench/model",
        dataset__train=[{"source": "s3://bench/rows.jsonl"}],
        method={"type": "LoRA", "lora": {"rank": 16}},
        training={"maxSteps": 1000, "globalBatchSize": 16},
        parallelism={"gpusPerNode": 0},
        output__uri="s3://bench/out",
        output__store={"endpoint": server.endpoint, "region": server.region},
    )["spec"]
    return JobFile.model_validate(
        {
            "name": "bench",
            "namespace": "ml",
            "uid": "0123456789abcdef",
            "stage": "train",
            "attempt": 1,
            "trainerImage": "trainer:dev",
            "spec": spec,
        }
    )
