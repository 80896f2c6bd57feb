"""Fault F27: the Secret is replaced while a run trains, and the store refuses the old keys from then on."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from devcluster import S3Server
from devcluster.processes import Component
from finetune_api.exit_codes import ExitCode
from finetune_api.names import Stage
from tests.builders.training_runs import SETTINGS, TrainingRun
from tests.stand_ins.s3_proxy import Request, S3Proxy

SECRET = "rotating"
OLD = {"AWS_ACCESS_KEY_ID": "OLDKEY", "AWS_SECRET_ACCESS_KEY": "the-old-secret"}
# The folder that the kubelet mounts into is a constant; every Python process of the pod reads this when it starts.
ELSEWHERE = (
    "import os, finetune_api.names\nfinetune_api.names.CONFIG_DIRECTORY = os.environ['TESTS_CONFIGURATION']\n"
)


class ServerOfTwoAccounts(S3Server):
    """The same server over the same buckets, which also knows the old keys."""

    def component(self) -> Component:
        """Describe the process."""
        component = super().component()
        accounts = self.state.root / "accounts"
        accounts.mkdir(exist_ok=True)
        account = {
            "access": OLD["AWS_ACCESS_KEY_ID"],
            "secret": OLD["AWS_SECRET_ACCESS_KEY"],
            "role": "admin",
        }
        content = {"accessAccounts": {account["access"]: account}}
        (accounts / "users.json").write_text(json.dumps(content))
        program, *rest = component.command
        return replace(component, command=(program, "--iam-dir", str(accounts), *rest))


@pytest.fixture
def both(server: S3Server, short_tmp: Path) -> Iterator[S3Server]:
    """A server that takes either keys."""
    (short_tmp / "two").mkdir()
    (short_tmp / "two" / "s3").symlink_to(server.data)
    with ServerOfTwoAccounts(short_tmp / "two") as both:
        yield both
        (short_tmp / "two" / "s3").unlink()


def mount(root: Path, version: str, keys: dict[str, str]) -> None:
    """Write a Secret's files as the kubelet does: all appear at once, by one link."""
    folder = root / "credentials" / SECRET
    content = folder / f"..{version}"
    content.mkdir(parents=True)
    for key, value in keys.items():
        (content / key).write_text(value)
        if not (folder / key).is_symlink():
            (folder / key).symlink_to(Path("..data") / key)
    (folder / "..data_tmp").symlink_to(content.name)
    (folder / "..data_tmp").rename(folder / "..data")


def is_signed_with(keys: dict[str, str], request: Request) -> bool:
    """Whether a request names this access key."""
    return f"Credential={keys['AWS_ACCESS_KEY_ID']}/" in request.headers.get("authorization", "")


def test_replaced_keys_are_used_by_a_run_that_trains(
    server: S3Server, both: S3Server, tmp_path: Path
) -> None:
    new = {
        "AWS_ACCESS_KEY_ID": both.access_key.identifier,
        "AWS_SECRET_ACCESS_KEY": both.access_key.secret,
    }
    mount(tmp_path / "etc", "1", OLD)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(ELSEWHERE)
    changes = {**SETTINGS, "checkpoints__everySteps": 1, "training__maxSteps": 2000}
    run = TrainingRun(server, tmp_path, "f27f2701-0000", changes)
    run.run(Stage.PREPARE)
    with S3Proxy(both.endpoint) as proxy:
        run.endpoint = proxy.url
        run.changes = {**changes, "output__store__credentialsSecretRef": {"name": SECRET}}
        process = run.start(
            Stage.TRAIN,
            PYTHONPATH=os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]),
            TESTS_CONFIGURATION=str(tmp_path / "etc"),
        )
        saved = process.wait_for_checkpoint()
        mount(tmp_path / "etc", "2", new)
        process.wait_for_log("reading credentials again: Secret 'rotating' has changed")
        process.wait_for_checkpoint(saved + 2)
        refused = proxy.answer(
            403,
            code="InvalidAccessKeyId",
            to=lambda request: is_signed_with(OLD, request),
            times=math.inf,
        )
        process.wait_for_checkpoint(saved + 6)
        process.terminate()
        assert process.wait() == ExitCode.PREEMPTED, process.log
        assert refused.happened == 0
