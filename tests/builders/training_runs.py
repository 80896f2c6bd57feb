"""Runs of the trainer as real processes against a real S3 server: what a pod does, without the pod."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from devcluster import S3Server
from finetune_api.job_file import JobFile
from finetune_api.names import (
    ENV_COMPLETION_INDEX,
    ENV_COORDINATOR_ADDRESS,
    ENV_WORK_DIRECTORY,
    Stage,
)
from finetune_api.termination import TerminationMessage
from finetune_trainer.placement import free_port
from finetune_trainer.spool import Spool
from finetune_trainer.storage import ObjectStore
from finetune_trainer.termination import ENV_TERMINATION_MESSAGE_PATH
from tests.builders.jobs import make_manifest

BUCKET = "trainer-runs"
DEADLINE_SECONDS = 180.0
TOTAL_STEPS = 30
SETTINGS: dict[str, Any] = {
    "training__maxSteps": TOTAL_STEPS,
    "training__globalBatchSize": 8,
    "training__microBatchTokens": 512,
    "training__learningRate": 5e-3,
    "training__warmupSteps": 3,
    "checkpoints__everySteps": 4,
    "method__lora": {"rank": 4, "dropout": 0.1},
}


def _committed_step(spool: Spool) -> int:
    committed = spool.report().committed
    return committed.step if committed else 0


def make_messages(count: int) -> list[dict[str, Any]]:
    """Rows in Messages format, of quite different lengths."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"Question {number}: " + "why? " * (number % 11)},
                {"role": "assistant", "content": f"Answer {number}. " + "Because. " * (number % 7)},
            ]
        }
        for number in range(count)
    ]


class PodProcess(Protocol):
    """What is known of a pod's first process; subprocess.Popen is one."""

    pid: int

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises subprocess.TimeoutExpired."""

    def terminate(self) -> None:
        """Send SIGTERM."""


@dataclass
class TrainingRun:
    """One FineTuneJob's run; each stage call is one attempt in a fresh working folder."""

    server: S3Server
    folder: Path
    uid: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    attempt: int = 0
    memory_backoff: int = 0
    # Where the store is spoken to, if not at the server itself.
    endpoint: str | None = None
    command: Sequence[str] = (sys.executable, "-m", "finetune_trainer")
    # How train stages are started, where not by `command`.
    pods: Callable[[Sequence[str], Mapping[str, str], Path], PodProcess] | None = None

    def job(self, stage: Stage) -> JobFile:
        """The job file of the current attempt."""
        spec = make_manifest(
            dataset__preparation={"maxLength": 256},
            output={
                "uri": f"s3://{BUCKET}/out",
                "store": {"endpoint": self.endpoint or self.server.endpoint},
            },
            **{
                "model__source": f"s3://{BUCKET}/base",
                "dataset__train": [{"source": f"s3://{BUCKET}/rows.jsonl"}],
                "parallelism__gpusPerNode": 0,
                **self.changes,
            },
        )["spec"]
        fields = {"name": "tuned", "namespace": "tests", "uid": self.uid, "trainerImage": "trainer:test"}
        return JobFile.model_validate(
            {
                **fields,
                "stage": stage,
                "attempt": max(1, self.attempt),
                "memoryBackoff": self.memory_backoff,
                "spec": spec,
            }
        )

    @property
    def store(self) -> ObjectStore:
        """The store as the trainer opens it."""
        return ObjectStore.open(self.job(Stage.TRAIN).spec.output.store)

    @property
    def work(self) -> Path:
        """The working folder of the current attempt."""
        return self.folder / f"attempt-{self.attempt}"

    def start(self, stage: Stage, **environment: str) -> StageProcess:
        """Start a stage as its own process group."""
        self.attempt += 1
        return self._start_pod(stage, self.work, environment)

    def start_gang(self, nodes: int) -> list[StageProcess]:
        """Start the train stage in several pods that share nothing but loopback."""
        self.attempt += 1
        # Where the network is one machine's loopback, gloo is told so; pods have a name that resolves.
        shared = {ENV_COORDINATOR_ADDRESS: f"127.0.0.1:{free_port()}", "GLOO_SOCKET_IFNAME": "lo"}
        return [
            self._start_pod(
                Stage.TRAIN, self.work / f"node-{node}", {**shared, ENV_COMPLETION_INDEX: str(node)}
            )
            for node in range(nodes)
        ]

    def _start_pod(self, stage: Stage, work: Path, environment: Mapping[str, str]) -> StageProcess:
        work.mkdir(parents=True)
        job_path = work / "job.json"
        job_path.write_text(self.job(stage).model_dump_json())
        message_path, log_path = work / "termination.json", work / "log"
        arguments = [str(stage), "--job", str(job_path)]
        variables = {
            **os.environ,
            ENV_WORK_DIRECTORY: str(work),
            ENV_TERMINATION_MESSAGE_PATH: str(message_path),
            **environment,
        }
        work = Path(variables[ENV_WORK_DIRECTORY])
        if self.pods is not None and stage is Stage.TRAIN:
            return StageProcess(self.pods(arguments, variables, log_path), work, message_path, log_path)
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [*self.command, *arguments],
                env=variables,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return StageProcess(process, work, message_path, log_path)

    def run(self, stage: Stage, **environment: str) -> StageProcess:
        """Run a stage to its end, which must be a good one."""
        process = self.start(stage, **environment)
        assert process.wait() == 0, process.log
        return process

    def start_over(self) -> None:
        """Forget everything but what prepare has written."""
        layout = self.job(Stage.TRAIN).layout
        for folder in (layout.claims_uri, layout.checkpoints_uri, layout.trained_uri):
            self.store.delete_folder(folder)
        self.store.delete([layout.metrics_uri])

    def metrics(self) -> list[dict[str, Any]]:
        """metrics.jsonl in the store."""
        text = self.store.read_bytes(self.job(Stage.TRAIN).layout.metrics_uri).decode()
        return [json.loads(line) for line in text.splitlines()]


@dataclass
class StageProcess:
    """A running or finished stage."""

    process: PodProcess
    work: Path
    message_path: Path
    log_path: Path

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return self.log_path.read_text(errors="replace")

    @property
    def message(self) -> TerminationMessage:
        """Its termination message."""
        return TerminationMessage.model_validate_json(self.message_path.read_text())

    def wait(self) -> int:
        """Wait for the end; the exit code."""
        try:
            return self.process.wait(DEADLINE_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the stage did not end\n{self.log}") from None

    def wait_for_steps(self, count: int) -> None:
        """Wait until that many steps are in the local metrics."""
        self._wait_until(lambda: self.steps() >= count, f"{count} steps")

    def wait_for_checkpoint(self, step: int = 1) -> int:
        """Wait until the uploader has committed a checkpoint of this step or a later one; its step."""
        spool = Spool(self.work / "spool")
        self._wait_until(lambda: _committed_step(spool) >= step, f"a checkpoint at step {step}")
        return _committed_step(spool)

    def wait_for_log(self, text: str) -> None:
        """Wait until it has logged that."""
        self._wait_until(lambda: text in self.log, repr(text))

    def terminate(self) -> None:
        """SIGTERM to the parent alone, as the kubelet does."""
        self.process.terminate()

    def kill(self) -> None:
        """SIGKILL to all processes at once, as when the node is gone."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def resumed_step(self) -> int:
        """The step that it says it went on from."""
        _, found, rest = self.log.partition("resuming from step ")
        assert found, f"it did not resume\n{self.log}"
        return int(rest.split()[0])

    def rank_pids(self) -> list[int]:
        """The ranks' process ids, in the order of their ranks."""
        return [pid for pid in self._children() if pid not in self.uploader_pids()]

    def uploader_pids(self) -> list[int]:
        """The process that uploads checkpoints."""
        return [
            pid
            for pid in self._children()
            if b"finetune_trainer.uploader" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]

    def _children(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(child) for child in children.split()]

    def steps(self) -> int:
        """How many steps of the run stand in the local metrics."""
        path = self.work / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def _wait_until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            assert self.process.poll() is None, f"ended before {what}\n{self.log}"
            assert time.monotonic() < deadline, f"no {what} in time\n{self.log}"
            time.sleep(0.005)
