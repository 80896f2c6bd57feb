"""`finetune pull` as users run it, against a real API server and a real S3 server."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from finetune_api.layout import ARTIFACT_MANIFEST_NAME
from finetune_api.spec import OutputStore
from finetune_api.status import Outputs, Phase
from finetune_cli.cluster import open_cluster
from finetune_cli.downloads import PART_BYTES
from finetune_cli.pull import Request, pull_model
from finetune_cli.storage import ModelStore
from tests.builders.finished_jobs import make_artifact, make_status
from tests.integration.cli.conftest import SECRET, World

FILES = {
    "config.json": b'{"model_type": "qwen3"}',
    "model-00001-of-00002.safetensors": random.Random(1).randbytes(300_000),
    "model-00002-of-00002.safetensors": b"",
    "extra/chat_template.jinja": "你好 {{ messages }}".encode(),
}


def read(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_merged_model_arrives_whole_and_a_second_pull_says_so(world: World) -> None:
    world.create_finished_job("bot", FILES)
    first = world.finetune("pull", "bot", "-n", world.namespace)
    assert first.returncode == 0, first.stderr
    assert first.stdout == "bot: the merged model of 'bot', 4 files, SHA-256 of each verified.\n"
    assert read(world.folder / "bot") == make_artifact(FILES)
    assert [path.name for path in world.folder.iterdir()] == ["bot"]
    second = world.finetune("pull", "bot", "-n", world.namespace)
    assert "is in bot already" in second.stdout
    (world.folder / "bot/config.json").write_text("edited")
    third = world.finetune("pull", "bot", "-n", world.namespace)
    assert third.returncode == 0, third.stderr
    assert read(world.folder / "bot") == make_artifact(FILES)


def test_the_adapter_arrives_where_it_is_wanted(world: World) -> None:
    world.create_finished_job("bot", FILES)
    result = world.finetune("pull", "bot", "-n", world.namespace, "--adapter", "-o", "deep/down/here")
    assert result.returncode == 0, result.stderr
    assert "adapter_config.json" in read(world.folder / "deep/down/here")
    default = world.finetune("pull", "bot", "-n", world.namespace, "--adapter")
    assert default.stdout.startswith("bot-adapter: the adapter of 'bot'")


def test_a_job_without_an_output_is_found_in_the_installations_store(world: World) -> None:
    uri, digest = world.upload("team/bot/runs/bot-1/merged", FILES)
    outputs = Outputs(
        merged_uri=uri,
        manifest_digest=digest,
        run_uri=uri.removesuffix("/merged"),
        store=OutputStore.model_validate(world.store),
    )
    world.create_job_without_output("bot", make_status(outputs=outputs))
    result = world.finetune("pull", "bot", "-n", world.namespace)
    assert result.returncode == 0, result.stderr
    assert read(world.folder / "bot") == make_artifact(FILES)


def test_the_model_card_comes_along(world: World) -> None:
    world.create_finished_job("bot", FILES)
    world.s3.put_object(Bucket=world.namespace, Key="bot/merged/README.md", Body=b"# bot")
    assert world.finetune("pull", "bot", "-n", world.namespace).returncode == 0
    assert read(world.folder / "bot") == {**make_artifact(FILES), "README.md": b"# bot"}
    again = world.finetune("pull", "bot", "-n", world.namespace)
    assert "is in bot already" in again.stdout


def test_the_namespace_of_the_context_is_the_default(world: World, tmp_path: Path) -> None:
    world.create_finished_job("bot", FILES)
    content = yaml.safe_load(Path(world.variables["KUBECONFIG"]).read_text())
    content["contexts"][0]["context"]["namespace"] = world.namespace
    own = tmp_path / "kubeconfig"
    own.write_text(yaml.safe_dump(content))
    result = world.finetune("pull", "bot", "--kubeconfig", str(own))
    assert result.returncode == 0, result.stderr


def test_the_next_run_of_a_job_replaces_what_was_pulled_from_the_one_before(world: World) -> None:
    world.create_finished_job("bot", {"a.safetensors": b"first", "gone.json": b""})
    assert world.finetune("pull", "bot", "-n", world.namespace).returncode == 0
    world.create_finished_job("bot", {"a.safetensors": b"second"})
    assert world.finetune("pull", "bot", "-n", world.namespace).returncode == 0
    assert read(world.folder / "bot") == make_artifact({"a.safetensors": b"second"})


def test_files_of_the_user_are_never_written_over(world: World) -> None:
    world.create_finished_job("bot", FILES)
    (world.folder / "bot").mkdir()
    (world.folder / "bot/thesis.tex").write_text("mine")
    result = world.finetune("pull", "bot", "-n", world.namespace)
    assert result.returncode == 1
    assert "thesis.tex" in result.stderr
    assert read(world.folder / "bot") == {"thesis.tex": b"mine"}


def _flip_a_bit(world: World, key: str) -> None:
    content = bytearray(world.s3.get_object(Bucket=world.namespace, Key=key)["Body"].read())
    content[len(content) // 2] ^= 1
    world.s3.put_object(Bucket=world.namespace, Key=key, Body=bytes(content))


def _delete(world: World, key: str) -> None:
    world.s3.delete_object(Bucket=world.namespace, Key=key)


WEIGHTS = "bot/merged/model-00001-of-00002.safetensors"
MANIFEST = f"bot/merged/{ARTIFACT_MANIFEST_NAME}"


@pytest.mark.parametrize(
    ("damage", "key", "sentence"),
    [
        (_flip_a_bit, WEIGHTS, "is not the file that the job wrote: its SHA-256"),
        (_delete, WEIGHTS, "was it deleted"),
        (_flip_a_bit, MANIFEST, "is not the one the job wrote"),
        (_delete, MANIFEST, "was it deleted"),
    ],
    ids=["a flipped bit", "a missing file", "an altered manifest", "a missing manifest"],
)
def test_a_damaged_model_never_gets_into_place(
    world: World, damage: Callable[[World, str], None], key: str, sentence: str
) -> None:
    world.create_finished_job("bot", FILES)
    damage(world, key)
    result = world.finetune("pull", "bot", "-n", world.namespace)
    assert result.returncode == 1
    assert sentence in result.stderr
    assert key in result.stderr
    assert not (world.folder / "bot").exists()


def test_a_job_that_does_not_exist_is_named(world: World) -> None:
    result = world.finetune("pull", "bto", "-n", world.namespace)
    assert result.returncode == 1
    assert f"FineTuneJob 'bto' not found in namespace '{world.namespace}'" in result.stderr


def test_a_job_that_still_trains_is_refused_with_its_state(world: World) -> None:
    world.create_job("bot", make_status(Phase.TRAINING, reason="Training", message="step 20 of 80"))
    result = world.finetune("pull", "bot", "-n", world.namespace)
    assert result.returncode == 1
    assert "it is Training (Training: step 20 of 80)" in result.stderr


def test_own_keys_that_the_store_refuses_give_way_to_the_jobs_secret(world: World) -> None:
    world.create_finished_job("bot", FILES)
    own = {"AWS_ACCESS_KEY_ID": "STRANGER", "AWS_SECRET_ACCESS_KEY": "no"}
    result = world.finetune("pull", "bot", "-n", world.namespace, **own)
    assert result.returncode == 0, result.stderr


def test_own_keys_serve_where_the_secret_is_missing(world: World) -> None:
    world.create_finished_job("bot", FILES)
    world.kubectl("-n", world.namespace, "delete", "secret", SECRET)
    key = world.server.access_key
    own = {"AWS_ACCESS_KEY_ID": key.identifier, "AWS_SECRET_ACCESS_KEY": key.secret}
    assert world.finetune("pull", "bot", "-n", world.namespace, **own).returncode == 0
    without = world.finetune("pull", "bot", "-n", world.namespace)
    assert without.returncode == 1
    assert (
        f"Secret '{SECRET}' in namespace '{world.namespace}' is missing or not yours to read"
        in without.stderr
    )


def test_wrong_keys_everywhere_are_all_named(world: World) -> None:
    world.create_finished_job("bot", FILES)
    world.create_secret(world.server.access_key.identifier, "wrong")
    own = {"AWS_ACCESS_KEY_ID": "STRANGER", "AWS_SECRET_ACCESS_KEY": "no"}
    result = world.finetune("pull", "bot", "-n", world.namespace, **own)
    assert result.returncode == 1
    assert "refuses the AWS keys of your environment or profile" in result.stderr
    assert f"refuses Secret '{SECRET}'" in result.stderr
    assert "wrong" not in result.stderr
    assert "Traceback" not in result.stderr


@pytest.fixture
def viewer_kubeconfig(world: World, tmp_path: Path) -> Path:
    """A user who may read FineTuneJobs but no Secrets."""
    in_namespace = ("-n", world.namespace)
    world.kubectl(*in_namespace, "create", "serviceaccount", "viewer")
    world.kubectl(
        *in_namespace, "create", "role", "viewer", "--verb=get", "--resource=finetunejobs.finetune.dev"
    )
    account = f"--serviceaccount={world.namespace}:viewer"
    world.kubectl(*in_namespace, "create", "rolebinding", "viewer", "--role=viewer", account)
    content = yaml.safe_load(Path(world.variables["KUBECONFIG"]).read_text())
    token = world.kubectl(*in_namespace, "create", "token", "viewer").strip()
    content["users"][0]["user"] = {"token": token}
    path = tmp_path / "viewer"
    path.write_text(yaml.safe_dump(content))
    return path


def test_who_may_not_read_the_secret_is_told_what_to_set(world: World, viewer_kubeconfig: Path) -> None:
    world.create_finished_job("bot", FILES)
    result = world.finetune("pull", "bot", "-n", world.namespace, "--kubeconfig", str(viewer_kubeconfig))
    assert result.returncode == 1
    assert "is missing or not yours to read" in result.stderr
    assert "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in result.stderr


def test_who_may_not_read_the_job_is_told_so(world: World, viewer_kubeconfig: Path) -> None:
    result = world.finetune("pull", "bot", "-n", "default", "--kubeconfig", str(viewer_kubeconfig))
    assert result.returncode == 1
    assert "You may not read FineTuneJob 'bot' in namespace 'default'" in result.stderr


def test_an_endpoint_that_only_the_cluster_knows_can_be_replaced(world: World) -> None:
    uri, digest = world.upload("bot/merged", FILES)
    outputs = Outputs(merged_uri=uri, manifest_digest=digest)
    world.create_job("bot", make_status(outputs=outputs), endpoint="http://127.0.0.1:9")
    unreachable = world.finetune("pull", "bot", "-n", world.namespace)
    assert unreachable.returncode == 1
    assert "http://127.0.0.1:9 does not answer" in unreachable.stderr
    assert "--endpoint" in unreachable.stderr
    result = world.finetune("pull", "bot", "-n", world.namespace, "--endpoint", world.server.endpoint)
    assert result.returncode == 0, result.stderr


class SilentReport:
    """A pull.Report that remembers how much was here already."""

    def __init__(self) -> None:
        self.done_bytes = 0

    def begin(self, title: str, total_bytes: int, done_bytes: int) -> None:
        self.done_bytes = done_bytes

    def advance(self, size_bytes: int) -> None:
        pass


def test_an_interrupted_pull_goes_on_where_it_stopped(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"model.safetensors": random.Random(2).randbytes(4 * PART_BYTES + 5)}
    world.create_finished_job("bot", files)
    target = world.folder / "bot"
    cluster = open_cluster(Path(world.variables["KUBECONFIG"]), None)
    job = cluster.load_job("bot", world.namespace)
    request = Request(merged=True, target=target, endpoint=None, parallel=1)
    starts: list[int] = []
    read_range = ModelStore.read_range

    def stop_after_two_parts(self: ModelStore, uri: str, start: int, length: int) -> Iterator[bytes]:
        if len(starts) == 2:
            raise KeyboardInterrupt
        starts.append(start)
        yield from read_range(self, uri, start, length)

    with monkeypatch.context() as interrupted:
        interrupted.setattr(ModelStore, "read_range", stop_after_two_parts)
        with pytest.raises(KeyboardInterrupt):
            pull_model(job, request, cluster.load_secret, SilentReport())
    assert not target.exists()
    report = SilentReport()
    pull_model(job, request, cluster.load_secret, report)
    assert report.done_bytes == 2 * PART_BYTES
    assert read(target) == make_artifact(files)
