"""Running out of memory: how it is recognised, what it says, and how the micro-batch is halved."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from finetune_api import names
from finetune_api.exit_codes import ExitCode
from finetune_api.spec import Training
from finetune_trainer.errors import OutOfMemory
from finetune_trainer.memory_errors import naming_micro_batch, out_of_memory
from finetune_trainer.micro_batch_bound import MicroBatchBound, decide_micro_batch_bound
from finetune_trainer.work_directory import RankResult, WorkDirectory
from tests.builders.job_files import make_job_file

GPU = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has …")
CPU = RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried")


@pytest.mark.parametrize(
    ("training", "device", "backoff", "expected"),
    [
        (Training(), "cuda", 0, MicroBatchBound(4096, 4096, 0)),
        (Training(), "cpu", 0, MicroBatchBound(2048, 2048, 0)),
        (Training(), "cuda", 3, MicroBatchBound(512, 4096, 3)),
        (Training(micro_batch_tokens=1000), "cuda", 1, MicroBatchBound(500, 1000, 1)),
        (Training(micro_batch_tokens=8), "cuda", 32, MicroBatchBound(1, 8, 32)),
    ],
    ids=[
        "a GPU's default",
        "a CPU's default",
        "halved three times",
        "the job's own, halved",
        "never nothing",
    ],
)
def test_the_bound_is_halved_as_often_as_memory_ran_out(
    training: Training, device: str, backoff: int, expected: MicroBatchBound
) -> None:
    assert decide_micro_batch_bound(training, device, backoff) == expected


@pytest.mark.parametrize(
    ("error", "bound", "sentences"),
    [
        pytest.param(
            GPU,
            MicroBatchBound(4096, 4096, 0),
            [
                "The GPU's memory is used up (CUDA out of memory. Tried to allocate 2.00 GiB) with micro-batches of up to "
                "4096 tokens. Lower spec.training.microBatchTokens",
                "use GPUs with more memory.",
            ],
            id="a GPU, for the first time",
        ),
        pytest.param(
            CPU,
            MicroBatchBound(512, 2048, 2),
            ["micro-batches of up to 512 tokens (2048 halved 2 times)", "or raise spec.resources.memory."],
            id="a pod, after two halvings",
        ),
        pytest.param(
            MemoryError(),
            MicroBatchBound(256, 512, 1),
            [
                "The pod's memory is used up with micro-batches of up to 256 tokens (512 halved once), which cannot be "
                "halved any more: the longest row alone is no shorter. Shorten rows",
                "(the longest has 300 tokens)",
            ],
            id="a single row is as large",
        ),
    ],
)
def test_the_sentence_says_what_was_tried_and_what_to_lower(
    error: Exception, bound: MicroBatchBound, sentences: list[str]
) -> None:
    with pytest.raises(OutOfMemory) as caught, naming_micro_batch(bound, 300, lambda: 7):
        raise error
    for sentence in sentences:
        assert sentence in caught.value.message
    assert caught.value.step == 7


def test_the_whole_sentence_names_what_was_asked_for_and_four_ways_out() -> None:
    with (
        pytest.raises(OutOfMemory) as caught,
        naming_micro_batch(MicroBatchBound(2048, 2048, 0), 300, lambda: 0),
    ):
        torch.empty(2**60, dtype=torch.uint8)
    found = re.fullmatch(
        r"The pod's memory is used up \((?P<what>.*)\) with micro-batches of up to 2048 tokens\. Lower "
        r"spec\.training\.microBatchTokens; if that does not help, shorten rows with "
        r"spec\.dataset\.preparation\.maxLength \(the longest has 300 tokens\), set spec\.training\.gradientCheckpointing to Enabled, or "
        r"raise spec\.resources\.memory\.",
        caught.value.message,
    )
    assert found is not None, caught.value.message
    assert f"tried to allocate {2**60} bytes" in found["what"]
    assert caught.value.exit_code is ExitCode.OUT_OF_MEMORY


def test_other_errors_pass_unchanged() -> None:
    with (
        pytest.raises(RuntimeError, match="cannot be multiplied"),
        naming_micro_batch(MicroBatchBound(8, 8, 0), 8, lambda: 0),
    ):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


@pytest.mark.parametrize("error", [GPU, MemoryError(), CPU], ids=["gpu", "python", "torch on the cpu"])
def test_memory_that_is_used_up_anywhere_says_what_to_lower(error: Exception) -> None:
    failure = out_of_memory(error)
    assert failure is not None
    assert "spec.training.microBatchTokens" in failure.message


def test_other_errors_are_not_taken_for_memory() -> None:
    assert out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None


def test_a_rank_that_runs_out_of_memory_ends_with_12(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(make_job_file().model_dump_json())
    work = WorkDirectory(tmp_path)
    work.clear_messages()
    program = (
        "import sys, types\n"
        "def train(*_): raise MemoryError\n"
        "sys.modules['finetune_trainer.train'] = module = types.ModuleType('finetune_trainer.train')\n"
        "module.train = train\n"
        "from finetune_trainer.rank import main\n"
        f"sys.exit(main(['--job', {str(tmp_path / 'job.json')!r}]))\n"
    )
    environment = {**os.environ, names.ENV_WORK_DIRECTORY: str(tmp_path), "RANK": "3"}
    ended = subprocess.run([sys.executable, "-c", program], env=environment, timeout=60, check=False)
    assert ended.returncode == ExitCode.OUT_OF_MEMORY
    result = RankResult.model_validate_json(work.rank_result(3).read_bytes())
    assert (result.rank, result.exit_code) == (3, 12)
