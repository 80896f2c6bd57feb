"""The cleanup stage on a real S3 server: this run's folder goes, all of it, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from devcluster import S3Server
from finetune_api.exit_codes import ExitCode
from finetune_api.job_file import JobFile
from finetune_api.layout import CurrentPointer, RunLayout
from finetune_api.spec import Store
from finetune_api.termination import TerminationMessage
from finetune_trainer import cleanup
from finetune_trainer.__main__ import main
from finetune_trainer.storage import ObjectStore
from finetune_trainer.termination import ENV_TERMINATION_MESSAGE_PATH
from tests.builders.jobs import make_manifest
from tests.integration.trainer.conftest import SECRET_NAME, mount_secret


@pytest.fixture
def job(layout: RunLayout, store_settings: Store) -> JobFile:
    """A job that is being deleted."""
    spec = make_manifest(
        output__uri=layout.output_uri,
        output__store=store_settings.model_dump(mode="json", exclude_none=True),
        deletionPolicy="Delete",
    )["spec"]
    fields = {"name": layout.name, "namespace": "ml", "uid": layout.uid, "trainerImage": "trainer:dev"}
    return JobFile.model_validate({**fields, "stage": "cleanup", "attempt": 1, "spec": spec})


@pytest.fixture
def s3(s3_server: S3Server) -> Any:
    """A client with the administrator's keys."""
    return boto3.client(
        "s3",
        endpoint_url=s3_server.endpoint,
        region_name=s3_server.region,
        aws_access_key_id=s3_server.access_key.identifier,
        aws_secret_access_key=s3_server.access_key.secret,
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )


def run(job: JobFile) -> TerminationMessage:
    return cleanup.run(job, Path("job.json"))


def write_run(store: ObjectStore, layout: RunLayout) -> None:
    """What a finished run leaves."""
    for name in (
        "run.json",
        "checkpoints/step-00000004/manifest.json",
        "merged/model.safetensors",
        "claims/00001",
    ):
        store.write_bytes(f"{layout.run_uri}/{name}", name.encode())


def write_pointer(store: ObjectStore, layout: RunLayout, run_id: str) -> None:
    pointer = CurrentPointer(
        run=run_id,
        job_uid="u",
        adapter_uri="s3://a/b",
        merged_uri=None,
        manifest_digest="ab" * 32,
        completed="2026-01-02T03:04:05Z",
    )
    store.write_bytes(layout.current_uri, pointer.model_dump_json().encode())


def names_below(store: ObjectStore, layout: RunLayout) -> set[str]:
    return {info.name for info in store.list_objects(layout.root)}


def test_the_runs_folder_goes_and_everything_else_stays(
    job: JobFile, store: ObjectStore, layout: RunLayout
) -> None:
    """Also a run whose folder's name begins with this one's, and the cache that all runs share."""
    write_run(store, layout)
    sibling = RunLayout(output_uri=layout.output_uri, name=f"{layout.run_id}-b", uid="89abcdef")
    others = {
        f"runs/{sibling.run_id}/run.json",
        f"runs/{layout.run_id}.json",
        ".cache/prepared/0/manifest.json",
    }
    for name in others:
        store.write_bytes(f"{layout.root}/{name}", b"kept")
    message = run(job)
    assert (message.reason, message.message) == (
        "CleanedUp",
        f"Removed 4 objects and 0 unfinished uploads below {layout.run_uri}/.",
    )
    assert names_below(store, layout) == others


def test_more_objects_than_one_page_holds_all_go(
    job: JobFile, store: ObjectStore, layout: RunLayout, s3_server: S3Server
) -> None:
    folder = s3_server.data / layout.run_uri.removeprefix("s3://") / "checkpoints"
    folder.mkdir(parents=True)
    for number in range(2345):
        (folder / f"{number:05d}").touch()
    assert run(job).message.startswith("Removed 2345 objects")
    assert names_below(store, layout) == set()


def test_what_a_console_made_of_folders_goes_too(
    job: JobFile, store: ObjectStore, layout: RunLayout, bucket: str, s3: Any
) -> None:
    prefix = layout.run_uri.removeprefix(f"s3://{bucket}/")
    s3.put_object(Bucket=bucket, Key=f"{prefix}/logs/", Body=b"")
    write_run(store, layout)
    run(job)
    assert s3.list_objects_v2(Bucket=bucket).get("KeyCount") == 0


def test_unfinished_uploads_go_and_those_of_other_runs_stay(
    job: JobFile, layout: RunLayout, bucket: str, s3: Any
) -> None:
    prefix = layout.run_uri.removeprefix(f"s3://{bucket}/")
    own = [f"{prefix}/merged/a.safetensors", f"{prefix}/merged/a.safetensors", f"{prefix}/trained/b"]
    other = f"{prefix}-b/merged/a.safetensors"
    for key in (*own, other):
        upload = s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
        s3.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=1, Body=b"x" * 1000)
    assert "3 unfinished uploads" in run(job).message
    left = s3.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    assert [upload["Key"] for upload in left] == [other]


@pytest.mark.parametrize("whose", ["this run's", "another run's", "unreadable"])
def test_the_pointer_goes_only_if_it_points_here(
    job: JobFile, store: ObjectStore, layout: RunLayout, whose: str
) -> None:
    write_run(store, layout)
    if whose == "unreadable":
        store.write_bytes(layout.current_uri, b"{}")
    else:
        write_pointer(store, layout, layout.run_id if whose == "this run's" else "support-bot-ffffffff")
    run(job)
    assert store.exists(layout.current_uri) == (whose != "this run's")


def test_a_pointer_that_moves_at_that_moment_stays(
    job: JobFile, store: ObjectStore, layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pointer(store, layout, layout.run_id)
    read_version = ObjectStore.read_version

    def move_after_reading(self: ObjectStore, uri: str) -> tuple[bytes, str] | None:
        version = read_version(self, uri)
        write_pointer(store, layout, "support-bot-ffffffff")
        return version

    monkeypatch.setattr(ObjectStore, "read_version", move_after_reading)
    run(job)
    assert (
        CurrentPointer.model_validate_json(store.read_bytes(layout.current_uri)).run == "support-bot-ffffffff"
    )


def test_a_second_attempt_goes_on_with_what_is_left(
    job: JobFile, store: ObjectStore, layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(store, layout)
    delete_batch = ObjectStore._delete_batch

    def die_after_half(self: ObjectStore, bucket: str, keys: list[str]) -> None:
        delete_batch(self, bucket, keys[:2])
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr(ObjectStore, "_delete_batch", die_after_half)
        with pytest.raises(KeyboardInterrupt):
            run(job)
    assert len(names_below(store, layout)) == 2
    assert run(job).message.startswith("Removed 2 objects")
    assert run(job).message.startswith("Removed 0 objects")


# --- as a process ----------------------------------------------------------------------------------------------


@pytest.fixture
def termination_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "termination-log"
    monkeypatch.setenv(ENV_TERMINATION_MESSAGE_PATH, str(path))
    return path


def run_command(job: JobFile, folder: Path) -> int:
    (folder / "job.json").write_text(job.model_dump_json())
    return main(["cleanup", "--job", str(folder / "job.json")])


def test_denied_keys_end_with_13_and_keep_everything(
    job: JobFile,
    store: ObjectStore,
    layout: RunLayout,
    config_directory: Path,
    tmp_path: Path,
    termination_path: Path,
) -> None:
    write_run(store, layout)
    write_pointer(store, layout, layout.run_id)
    keys = (config_directory / "credentials" / SECRET_NAME / "AWS_SECRET_ACCESS_KEY").read_text()
    mount_secret(config_directory, SECRET_NAME, AWS_SECRET_ACCESS_KEY="wrong")
    assert run_command(job, tmp_path) == ExitCode.STORAGE_DENIED
    message = TerminationMessage.model_validate_json(termination_path.read_text())
    assert message.reason == "StorageDenied"
    assert f"Secret '{SECRET_NAME}'" in message.message
    mount_secret(config_directory, SECRET_NAME, AWS_SECRET_ACCESS_KEY=keys)
    assert len(names_below(store, layout)) == 5


def test_a_bucket_that_is_gone_leaves_nothing_to_do(
    job: JobFile, layout: RunLayout, s3_server: S3Server, bucket: str, tmp_path: Path, termination_path: Path
) -> None:
    (s3_server.data / bucket).rmdir()
    assert run_command(job, tmp_path) == 0
    message = TerminationMessage.model_validate_json(termination_path.read_text())
    assert message.message.startswith(f"Nothing was left to remove: Bucket '{bucket}' does not exist")


def test_the_stage_runs_without_torch(job: JobFile, tmp_path: Path) -> None:
    code = (
        "import sys, finetune_trainer.cleanup; print({'torch', 'transformers', 'numpy'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stdout == "set()\n", result.stderr


# --- stores that can do less -------------------------------------------------------------------------------------


@pytest.fixture
def store_without_conditional_deletes(
    config_directory: Path, s3_secret: str
) -> Iterator[tuple[ObjectStore, list[str]]]:
    """A server that refuses what it does not implement, and the deletions that it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_DELETE(self) -> None:
            conditional = "If-Match" in self.headers
            asked.append("conditional" if conditional else "plain")
            body = (
                b"<Error><Code>NotImplemented</Code><Message>If-Match</Message></Error>"
                if conditional
                else b""
            )
            self.send_response(501 if conditional else 204)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings = Store.model_validate(
        {
            "endpoint": f"http://127.0.0.1:{server.server_port}",
            "credentialsSecretRef": {"name": s3_secret},
        }
    )
    yield ObjectStore.open(settings, max_attempts=1), asked
    server.shutdown()
    server.server_close()


def test_a_store_that_cannot_delete_conditionally_deletes_all_the_same(
    store_without_conditional_deletes: tuple[ObjectStore, list[str]],
) -> None:
    store, asked = store_without_conditional_deletes
    assert store.delete_version("s3://models/current.json", '"etag"')
    assert asked == ["conditional", "plain"]
