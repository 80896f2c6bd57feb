"""The command of the pods: how a stage that ends says so, by exit code and termination message."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_api.termination import TerminationMessage, parse_termination_message
from finetune_trainer.__main__ import main
from finetune_trainer.errors import DataError, NonFiniteLoss, StageError, Superseded
from finetune_trainer.termination import ENV_TERMINATION_MESSAGE_PATH, failure_of
from tests.builders.jobs import MINIMAL_SPEC
from tests.builders.packages import kept_packages


@pytest.fixture(autouse=True)
def packages_of_other_tests() -> Iterator[None]:
    """main() runs in this process."""
    with kept_packages():
        yield


@pytest.fixture
def termination_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "termination-log"
    monkeypatch.setenv(ENV_TERMINATION_MESSAGE_PATH, str(path))
    return path


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    job = {
        "name": "support-bot",
        "namespace": "ml",
        "uid": "0123456789abcdef",
        "stage": "prepare",
        "attempt": 1,
        "trainerImage": "trainer:dev",
        "spec": MINIMAL_SPEC,
    }
    path = tmp_path / "job.json"
    path.write_text(json.dumps(job))
    return path


def read_message(path: Path) -> TerminationMessage:
    message = parse_termination_message(path.read_text())
    assert message is not None
    return message


def run_with(monkeypatch: pytest.MonkeyPatch, job_file: Path, outcome: Exception | TerminationMessage) -> int:
    """Run the prepare stage replaced by one that ends like this."""

    def run(job: object, job_path: Path) -> TerminationMessage:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    stage = types.ModuleType("finetune_trainer.prepare")
    stage.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "finetune_trainer.prepare", stage)
    return main(["prepare", "--job", str(job_file)])


def test_a_finished_stage_leaves_its_message(
    monkeypatch: pytest.MonkeyPatch, job_file: Path, termination_path: Path
) -> None:
    done = TerminationMessage(reason="Prepared", message="done")
    assert run_with(monkeypatch, job_file, done) == 0
    assert read_message(termination_path) == done


@pytest.mark.parametrize(
    ("error", "exit_code", "reason"),
    [
        (DataError("row 3 is bad"), 11, "DataError"),
        (NonFiniteLoss("the loss is NaN", step=7), 14, "NonFiniteLoss"),
        (Superseded("another pod has the run"), 22, "Preempted"),
        (MemoryError(), 12, "OutOfMemory"),
        (RuntimeError("odd"), 1, "Unknown"),
    ],
)
def test_a_failed_stage_says_why(
    monkeypatch: pytest.MonkeyPatch,
    job_file: Path,
    termination_path: Path,
    error: Exception,
    exit_code: int,
    reason: str,
) -> None:
    assert run_with(monkeypatch, job_file, error) == exit_code
    message = read_message(termination_path)
    assert message.reason == reason
    if isinstance(error, StageError):
        assert (message.message, message.step) == (error.message, error.step)


def test_an_unexpected_error_is_named_by_its_type() -> None:
    _, message = failure_of(ZeroDivisionError("division by zero"))
    assert message.message == "Unexpected ZeroDivisionError: division by zero. The log has the traceback."


def test_a_message_that_cannot_be_written_does_not_change_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, job_file: Path
) -> None:
    monkeypatch.setenv(ENV_TERMINATION_MESSAGE_PATH, "/nowhere/termination-log")
    assert run_with(monkeypatch, job_file, DataError("row 3 is bad")) == 11


def test_a_job_file_that_is_not_there_is_named(tmp_path: Path, termination_path: Path) -> None:
    assert main(["prepare", "--job", str(tmp_path / "none.json")]) == 10
    assert "none.json cannot be read (No such file or directory)" in read_message(termination_path).message


def test_a_job_file_of_another_release_names_each_field(job_file: Path, termination_path: Path) -> None:
    job = json.loads(job_file.read_text())
    job["spec"]["training"] = {"learningRate": "fast", "sparkles": 3}
    job_file.write_text(json.dumps(job))
    assert main(["prepare", "--job", str(job_file)]) == 10
    message = read_message(termination_path).message
    assert "spec.training.learningRate: Input should be a valid number" in message
    assert "spec.training.sparkles: Extra inputs are not permitted" in message
    assert message.endswith("Use operator and trainer images of the same release.")


def test_sigterm_ends_a_stage_as_preempted(job_file: Path, tmp_path: Path) -> None:
    program = (
        "import sys, time, types\n"
        "def run(job, path):\n    print('running', flush=True)\n    time.sleep(60)\n"
        "stage = types.ModuleType('finetune_trainer.prepare'); stage.run = run\n"
        "sys.modules['finetune_trainer.prepare'] = stage\n"
        "from finetune_trainer.__main__ import main\n"
        f"sys.exit(main(['prepare', '--job', {str(job_file)!r}]))\n"
    )
    path = tmp_path / "termination-log"
    environment = {**os.environ, ENV_TERMINATION_MESSAGE_PATH: str(path)}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"running\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 22
    assert read_message(path).reason == "Preempted"
