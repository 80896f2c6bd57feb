"""How a container ends says how its ranks ended: real launchers, real ranks, one of which is made to fail or to be slow."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from devcluster import S3Server
from finetune_api.exit_codes import ExitCode
from finetune_api.names import ENV_GRACE_SECONDS, Stage
from finetune_trainer.checkpoints import find_newest_checkpoint
from tests.builders.training_runs import SETTINGS, TrainingRun
from tests.stand_ins.s3_proxy import S3Proxy, requests

SAVE_SECONDS = 45.0
TWO_RANKS = {**SETTINGS, "method__lora": {"rank": 4}, "parallelism__gpusPerNode": 2}
DIVERGING = """
import os
from finetune_trainer.errors import NonFiniteLoss
from finetune_trainer.training import FineTuneTrainer
step_of = FineTuneTrainer.training_step
def diverge(self, *arguments):
    if os.environ["RANK"] == "1" and self.state.global_step == 3:
        raise NonFiniteLoss("The loss of step 4 is nan.", step=3)
    return step_of(self, *arguments)
FineTuneTrainer.training_step = diverge
"""


def launcher_whose_ranks_begin_with(code: str) -> list[str]:
    """The launcher as it is; its ranks run `code` when they have imported everything, then the rank as it is."""
    rank = f"import finetune_trainer.train\n{code}\nimport finetune_trainer.rank as rank\nrank.main()"
    # A rank ends by os._exit, as `python -m finetune_trainer.rank` does.
    rank = rank.replace(
        "rank.main()", "import os, sys; code = rank.main(); sys.stderr.flush(); os._exit(code)"
    )
    launcher = (
        "import sys, finetune_trainer.launcher as launcher\n"
        f"launcher.process_arguments = lambda job: ['-c', {rank!r}, '--job', str(job)]\n"
        "from finetune_trainer.__main__ import main\n"
        "sys.exit(main())"
    )
    return [sys.executable, "-c", launcher]


def test_the_container_ends_with_the_code_and_the_words_of_the_rank_that_knows_why(
    server: S3Server, tmp_path: Path
) -> None:
    """Rank 0 only sees a lost connection, which says nothing."""
    run = TrainingRun(server, tmp_path, "c0c0c0c1-0000", TWO_RANKS)
    run.run(Stage.PREPARE)
    run.command = launcher_whose_ranks_begin_with(DIVERGING)
    process = run.start(Stage.TRAIN)
    assert process.wait() == ExitCode.NON_FINITE_LOSS, process.log
    message = process.message
    assert (message.reason, message.rank, message.step) == ("NonFiniteLoss", 1, 3)
    assert message.message == "The loss of step 4 is nan."


def test_a_save_that_takes_45_seconds_after_sigterm_is_waited_for(server: S3Server, tmp_path: Path) -> None:
    """torchrun would have killed the ranks after 30."""
    settings = {**SETTINGS, "checkpoints__everySteps": 1000}
    run = TrainingRun(server, tmp_path, "c0c0c0c2-0000", settings)
    run.run(Stage.PREPARE)
    with S3Proxy(server.endpoint) as proxy:
        proxy.delay(SAVE_SECONDS, to=requests("PUT", "/checkpoints/.*/manifest.json"))
        run.endpoint = proxy.url
        save_slowly(run)


def save_slowly(run: TrainingRun) -> None:
    process = run.start(Stage.TRAIN, **{ENV_GRACE_SECONDS: "120"})
    process.wait_for_steps(3)
    told_at = time.monotonic()
    process.terminate()
    assert process.wait() == ExitCode.PREEMPTED, process.log
    assert time.monotonic() - told_at >= SAVE_SECONDS
    saved = process.message.step
    assert saved is not None and saved >= 3
    newest = find_newest_checkpoint(run.store, run.job(Stage.TRAIN).layout).manifest
    assert newest is not None and newest.step == saved
