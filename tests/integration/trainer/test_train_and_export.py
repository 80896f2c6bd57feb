"""prepare → train → export as real processes, killed and taken up again, against a real S3 server."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from devcluster import S3Server
from finetune_api.exit_codes import ExitCode
from finetune_api.layout import ARTIFACT_MANIFEST_NAME, ArtifactManifest, CurrentPointer
from finetune_api.names import ENV_WORK_DIRECTORY, Stage
from finetune_trainer.checkpoints import find_newest_checkpoint
from tests.builders.tiny_models import CHATML
from tests.builders.training_runs import BUCKET, SETTINGS, TOTAL_STEPS, TrainingRun
from tests.integration.trainer.runs import (
    adapter_digest,
    assert_equal_metrics,
    train_here,
)

TWO_RANKS = {**SETTINGS, "method__lora": {"rank": 4}, "parallelism__gpusPerNode": 2}


@pytest.fixture(scope="module")
def finished(server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> TrainingRun:
    """A run of one rank that nothing interrupted."""
    run = TrainingRun(server, tmp_path_factory.mktemp("finished"), "11111111-0000", SETTINGS)
    run.run(Stage.PREPARE)
    process = run.run(Stage.TRAIN)
    assert process.message.trained is not None
    assert process.message.step == TOTAL_STEPS
    return run


@pytest.fixture(scope="module")
def finished_by_two(server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> TrainingRun:
    """A run of two ranks that nothing interrupted."""
    run = TrainingRun(server, tmp_path_factory.mktemp("by-two"), "22222222-0000", TWO_RANKS)
    run.run(Stage.PREPARE)
    run.run(Stage.TRAIN)
    return run


def test_every_step_has_one_line_and_the_model_learns(finished: TrainingRun) -> None:
    metrics = finished.metrics()
    assert [line["step"] for line in metrics] == list(range(1, TOTAL_STEPS + 1))
    assert metrics[-1]["loss"] < metrics[0]["loss"] - 0.3
    assert metrics[7]["epoch"] == 1.0


def test_killed_run_ends_bit_for_bit_as_one_that_was_not(
    finished: TrainingRun, server: S3Server, tmp_path: Path
) -> None:
    """With dropout: random numbers must go on where they were, too."""
    run = TrainingRun(server, tmp_path, "33333333-0000", SETTINGS)
    run.run(Stage.PREPARE)
    killed = run.start(Stage.TRAIN)
    killed.wait_for_steps(10)
    saved = killed.wait_for_checkpoint()
    killed.kill()

    last = run.run(Stage.TRAIN)
    resumed = int(last.log.partition("resuming from step ")[2].split()[0])
    assert resumed >= saved > 0
    assert_equal_metrics(run, finished)
    assert adapter_digest(run, tmp_path / "a") == adapter_digest(finished, tmp_path / "b")


def test_two_ranks_compute_the_losses_of_one(
    finished_by_two: TrainingRun, server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The single rank runs in this process, so that torch is imported once less."""
    one = TrainingRun(server, tmp_path, "66666666-0000", {**TWO_RANKS, "parallelism__gpusPerNode": 0})
    one.run(Stage.PREPARE)
    losses = [line["loss"] for line in train_here(one, tmp_path, monkeypatch)]
    assert losses == pytest.approx([line["loss"] for line in finished_by_two.metrics()], rel=1e-5)


def test_losing_a_rank_ends_the_gang_and_the_next_attempt_goes_on_exactly(
    finished_by_two: TrainingRun, server: S3Server, tmp_path: Path
) -> None:
    run = TrainingRun(server, tmp_path, "44444444-0000", TWO_RANKS)
    run.run(Stage.PREPARE)

    told_to_go = run.start(Stage.TRAIN)
    told_to_go.wait_for_steps(5)
    told_to_go.terminate()
    assert told_to_go.wait() == ExitCode.PREEMPTED, told_to_go.log
    saved = told_to_go.message.step
    assert saved is not None and 5 <= saved < TOTAL_STEPS

    bereft = run.start(Stage.TRAIN)
    bereft.wait_for_steps(13)
    os.kill(bereft.rank_pids()[1], signal.SIGKILL)
    lost_at = time.monotonic()
    assert bereft.wait() == 1
    assert time.monotonic() - lost_at < 30
    assert "Rank 1 was killed by SIGKILL" in bereft.message.message
    assert bereft.message.rank == 1
    assert f"resuming from step {saved} (newest valid checkpoint" in bereft.log

    run.run(Stage.TRAIN)
    assert_equal_metrics(run, finished_by_two)
    assert adapter_digest(run, tmp_path / "a") == adapter_digest(finished_by_two, tmp_path / "b")


def test_half_the_micro_batch_changes_nothing_but_memory(
    finished_by_two: TrainingRun, server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = TrainingRun(
        server, tmp_path, "77777777-0000", {**TWO_RANKS, "parallelism__gpusPerNode": 0}, memory_backoff=2
    )
    run.run(Stage.PREPARE)
    losses = [line["loss"] for line in train_here(run, tmp_path, monkeypatch)]
    assert losses == pytest.approx([line["loss"] for line in finished_by_two.metrics()], rel=1e-5)


def test_running_out_of_memory_says_which_micro_batch_was_tried(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from finetune_trainer.errors import OutOfMemory
    from finetune_trainer.training import FineTuneTrainer

    training_step = FineTuneTrainer.training_step

    def run_out(self: FineTuneTrainer, *arguments: Any) -> torch.Tensor:
        if self.state.global_step == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return training_step(self, *arguments)

    monkeypatch.setattr(FineTuneTrainer, "training_step", run_out)
    settings = {**SETTINGS, "training__microBatchTokens": 1024}
    run = TrainingRun(server, tmp_path, "bbbbbbbb-0000", settings, memory_backoff=1)
    run.run(Stage.PREPARE)
    with pytest.raises(
        OutOfMemory, match=r"micro-batches of up to 512 tokens \(1024 halved once\)"
    ) as caught:
        train_here(run, tmp_path, monkeypatch)
    assert caught.value.step == 2


def test_a_run_that_goes_on_from_an_earlier_one_ends_bit_for_bit_as_one_that_was_not_interrupted(
    finished: TrainingRun, server: S3Server, tmp_path: Path
) -> None:
    earlier = TrainingRun(server, tmp_path / "earlier", "88888888-0000", SETTINGS)
    earlier.run(Stage.PREPARE)
    killed = earlier.start(Stage.TRAIN)
    killed.wait_for_checkpoint()
    killed.kill()
    newest = find_newest_checkpoint(earlier.store, earlier.job(Stage.TRAIN).layout).manifest
    assert newest is not None

    resumed = {**SETTINGS, "resumeFrom": {"run": "tuned-88888888"}}
    run = TrainingRun(server, tmp_path / "later", "99999999-0000", resumed)
    prepared = run.run(Stage.PREPARE)
    assert f"training will go on from step {newest.step} of run tuned-88888888" in prepared.log
    process = run.run(Stage.TRAIN)
    assert f"resuming from step {newest.step} (newest valid checkpoint of run tuned-88888888" in process.log
    assert_equal_metrics(run, finished)
    assert adapter_digest(run, tmp_path / "a") == adapter_digest(finished, tmp_path / "b")


def test_a_rank_that_hangs_ends_the_attempt_as_stalled(server: S3Server, tmp_path: Path) -> None:
    """A real rank, stopped in the middle of training; the launcher's patience is cut from half a minute to 2 s."""
    impatient = (
        "import sys, finetune_trainer.launcher as launcher\n"
        "watch = launcher.watch_ranks\n"
        "launcher.watch_ranks = lambda *arguments: watch(*arguments[:-1], 2.0)\n"
        "from finetune_trainer.__main__ import main\n"
        "sys.exit(main())"
    )
    run = TrainingRun(server, tmp_path, "aaaaaaaa-0000", TWO_RANKS)
    run.run(Stage.PREPARE)
    run.command = (sys.executable, "-c", impatient)
    process = run.start(Stage.TRAIN)
    process.wait_for_steps(5)
    ranks = process.rank_pids()
    os.kill(ranks[1], signal.SIGSTOP)
    assert process.wait() == ExitCode.STALLED, process.log
    message = process.message
    assert (message.reason, message.rank) == ("Stalled", 1)
    assert message.step is not None and message.step >= 4
    assert "(rank 1 is stopped by a signal)" in message.message
    assert "training_step" in process.log, "the other rank shows where it waits"
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks)


def test_finished_training_is_not_repeated(finished: TrainingRun) -> None:
    began = time.monotonic()
    process = finished.run(Stage.TRAIN)
    assert "was finished by an earlier attempt" in process.log
    assert time.monotonic() - began < 5
    assert process.message.step == TOTAL_STEPS


def test_old_checkpoints_are_removed(finished: TrainingRun) -> None:
    layout = finished.job(Stage.TRAIN).layout
    steps = {info.name.split("/")[0] for info in finished.store.list_objects(layout.checkpoints_uri)}
    # Which one stands beside the last depends on how fast the store was.
    assert len(steps) == 2 and max(steps) == f"step-{TOTAL_STEPS:08d}"


def test_exported_model_is_base_plus_adapter_and_loads_as_it_is(
    finished: TrainingRun, server: S3Server, tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    process = finished.run(Stage.EXPORT)
    facts = process.message.exported
    assert facts is not None and facts.merge_max_logit_difference is not None
    assert facts.merge_max_logit_difference < 1e-4

    # What `aws s3 sync` would bring: plain files below the run's folder.
    layout = finished.job(Stage.EXPORT).layout
    out = server.data / layout.run_uri.removeprefix("s3://")
    pointer = CurrentPointer.model_validate_json(finished.store.read_bytes(layout.current_uri))
    assert pointer.merged_uri == f"{layout.run_uri}/merged"
    manifest_bytes = (out / "merged" / ARTIFACT_MANIFEST_NAME).read_bytes()
    assert pointer.manifest_digest == hashlib.sha256(manifest_bytes).hexdigest() == facts.manifest_digest
    assert_manifest_covers(out / "merged")
    assert_manifest_covers(out / "adapter")

    merged = AutoModelForCausalLM.from_pretrained(out / "merged")
    base = AutoModelForCausalLM.from_pretrained(server.data / BUCKET / "base")
    tokenizer = AutoTokenizer.from_pretrained(out / "merged")
    assert tokenizer.chat_template == CHATML
    assert AutoTokenizer.from_pretrained(out / "adapter").chat_template == CHATML
    assert merged.lm_head.weight is merged.model.embed_tokens.weight
    text = tokenizer.apply_chat_template([{"role": "user", "content": "why?"}], tokenize=False)
    inputs = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        before = base(**inputs).logits
        adapted = PeftModel.from_pretrained(base, out / "adapter")(**inputs).logits
        after = merged(**inputs).logits
    assert (after - adapted).abs().max() < 1e-4
    assert (after - before).abs().max() > 0.1


def test_export_taken_up_again_writes_the_same_and_does_not_repeat_what_is_committed(
    finished: TrainingRun, server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = finished.job(Stage.EXPORT).layout
    out = server.data / layout.run_uri.removeprefix("s3://")
    first = export_here(finished, tmp_path / "first", monkeypatch)
    # As if the pod had been lost before the last manifest, and a train pod's last request had arrived only now.
    (out / "merged" / ARTIFACT_MANIFEST_NAME).unlink()
    late = f"{layout.checkpoint_uri(TOTAL_STEPS + 1)}/00001/adapter.safetensors"
    finished.store.write_bytes(late, b"late")
    again = export_here(finished, tmp_path / "again", monkeypatch)
    committed = export_here(finished, tmp_path / "committed", monkeypatch)
    assert first == again == committed
    assert not finished.store.exists(late)
    assert not (tmp_path / "committed" / "merged").exists()


def test_damaged_adapter_is_not_exported(
    finished: TrainingRun, server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune_trainer.errors import StorageUnavailable

    damaged = TrainingRun(server, tmp_path, "55555555-0000", SETTINGS)
    copy_run(server, finished, damaged)
    layout = damaged.job(Stage.EXPORT).layout
    uri = f"{layout.trained_uri}/00001/adapter_model.safetensors"
    weights = bytearray(damaged.store.read_bytes(uri))
    weights[-10] ^= 1
    damaged.store.write_bytes(uri, bytes(weights))
    with pytest.raises(StorageUnavailable, match="does not have the SHA-256 of its manifest"):
        export_here(damaged, tmp_path / "work", monkeypatch)
    assert damaged.store.list_objects(layout.merged_uri) == []


# --- how the tests look at runs ----------------------------------------------------------------------------------


def assert_manifest_covers(folder: Path) -> None:
    manifest = ArtifactManifest.model_validate_json((folder / ARTIFACT_MANIFEST_NAME).read_bytes())
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    assert found.keys() - {ARTIFACT_MANIFEST_NAME, "README.md"} == {entry.name for entry in manifest.files}
    assert all(found[entry.name] == entry.sha256 for entry in manifest.files)


def export_here(run: TrainingRun, folder: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    from finetune_trainer import export

    folder.mkdir()
    monkeypatch.setenv(ENV_WORK_DIRECTORY, str(folder))
    return export.run(run.job(Stage.EXPORT), folder / "job.json").exported


def copy_run(server: S3Server, source: TrainingRun, target: TrainingRun) -> None:
    import shutil

    old, new = (
        server.data / run.job(Stage.EXPORT).layout.run_uri.removeprefix("s3://") for run in (source, target)
    )
    shutil.copytree(old, new, ignore=shutil.ignore_patterns("merged", "adapter", "checkpoints"))
