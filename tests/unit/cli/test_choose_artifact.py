"""Which folder of the store `finetune pull` means, and what it says where there is none."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from finetune_api.spec import Store
from finetune_api.status import Outputs, Phase
from finetune_cli.cluster import Job, parse_job
from finetune_cli.errors import CommandError
from finetune_cli.pull import Artifact, choose_artifact, parse_manifest
from tests.builders.finished_jobs import make_manifest_bytes, make_status
from tests.builders.jobs import make_manifest

ADAPTER, MERGED = "s3://models/bot/runs/bot-1/adapter", "s3://models/bot/runs/bot-1/merged"
DIGEST = "ab" * 32


def make_job(outputs: Outputs | None = None, phase: Phase = Phase.SUCCEEDED, **status: Any) -> Job:
    return Job("bot", "ml", Store(), make_status(phase, outputs, **status))


BOTH = Outputs(adapter_uri=ADAPTER, merged_uri=MERGED, manifest_digest=DIGEST)
ADAPTER_ONLY = Outputs(adapter_uri=ADAPTER, manifest_digest=DIGEST)
MERGED_ONLY = Outputs(merged_uri=MERGED, manifest_digest=DIGEST)


@pytest.mark.parametrize(
    ("outputs", "wish", "expected"),
    [
        (BOTH, None, Artifact(MERGED, is_merged=True, manifest_sha256=DIGEST)),
        (BOTH, True, Artifact(MERGED, is_merged=True, manifest_sha256=DIGEST)),
        (BOTH, False, Artifact(ADAPTER, is_merged=False, manifest_sha256=None)),
        (ADAPTER_ONLY, None, Artifact(ADAPTER, is_merged=False, manifest_sha256=DIGEST)),
        (ADAPTER_ONLY, False, Artifact(ADAPTER, is_merged=False, manifest_sha256=DIGEST)),
        (MERGED_ONLY, None, Artifact(MERGED, is_merged=True, manifest_sha256=DIGEST)),
    ],
    ids=[
        "the merged model by default",
        "the merged model by wish",
        "the adapter beside a merged model: the digest in the status is not its own",
        "the adapter where nothing was merged",
        "the adapter by wish where nothing was merged",
        "the merged model where there is no adapter",
    ],
)
def test_the_folder_is_chosen(outputs: Outputs, wish: bool | None, expected: Artifact) -> None:
    assert choose_artifact(make_job(outputs), wish) == expected


@pytest.mark.parametrize(
    ("job", "wish", "sentences"),
    [
        (make_job(ADAPTER_ONLY), True, ["'bot' has no merged model", "--adapter"]),
        (make_job(MERGED_ONLY), False, ["'bot' has no adapter", "spec.method.type is Full", "--merged"]),
        (
            make_job(phase=Phase.TRAINING, reason="Training", message="step 20 of 80"),
            None,
            [
                "'bot' in namespace 'ml' has not succeeded; it is Training (Training: step 20 of 80)",
                "wait --for",
            ],
        ),
        (
            make_job(
                phase=Phase.FAILED, reason="DataError", message="Row 3 has no messages. Correct the row."
            ),
            None,
            [
                "it is Failed. DataError: Row 3 has no messages. Correct the row.",
                "There is no model to pull.",
            ],
        ),
        # Outputs may be there before the job has succeeded: the merge is not verified yet.
        (make_job(BOTH, phase=Phase.EXPORTING), None, ["it is Exporting"]),
    ],
    ids=["no merged model", "no adapter", "still training", "failed", "outputs without success"],
)
def test_the_refusal_says_why(job: Job, wish: bool | None, sentences: list[str]) -> None:
    with pytest.raises(CommandError) as refusal:
        choose_artifact(job, wish)
    for sentence in sentences:
        assert sentence in str(refusal.value)


def test_a_job_that_no_operator_has_seen_is_said_to_be_so() -> None:
    job = parse_job(make_manifest("bot", "ml"))
    with pytest.raises(CommandError, match="not looked at by an operator yet"):
        choose_artifact(job, None)


def test_the_store_is_the_specs_own() -> None:
    content = make_manifest("bot", "ml", output__store={"endpoint": "https://own.example.com"})
    content["status"] = {"outputs": {"store": {"endpoint": "https://default.example.com"}}}
    assert parse_job(content).store.endpoint == "https://own.example.com"


def test_without_an_output_the_store_is_the_installations_as_the_operator_resolved_it() -> None:
    content = make_manifest("bot", "ml", output=...)
    assert parse_job(content).store == Store()
    content["status"] = {"outputs": {"store": {"endpoint": "https://default.example.com"}, "novelty": 1}}
    assert parse_job(content).store.endpoint == "https://default.example.com"


def test_fields_of_a_newer_operator_are_passed_over() -> None:
    content = make_manifest("bot", "ml", output__novelty=1)
    content["status"] = {"phase": "Succeeded", "novelty": {"a": 1}}
    job = parse_job(content)
    assert (job.name, job.namespace, job.status.phase) == ("bot", "ml", Phase.SUCCEEDED)


def test_a_manifest_with_the_recorded_digest_is_parsed() -> None:
    content = make_manifest_bytes({"config.json": b"{}"})
    artifact = Artifact(MERGED, is_merged=True, manifest_sha256=hashlib.sha256(content).hexdigest())
    assert [entry.name for entry in parse_manifest(artifact, content).files] == ["config.json"]


@pytest.mark.parametrize(
    ("content", "digest", "sentence"),
    [
        (make_manifest_bytes({"config.json": b"{}"}), DIGEST, "is not the one the job wrote"),
        (b"{}", None, "is no manifest"),
        (make_manifest_bytes({"a": b""}).replace(b'"a"', b'"../a"'), None, "is no manifest"),
        (make_manifest_bytes({"a": b""}).replace(b'"a"', b'"/etc/a"'), None, "is no manifest"),
    ],
    ids=["replaced since", "not a manifest", "a name that leaves the folder", "an absolute name"],
)
def test_another_manifest_is_refused(content: bytes, digest: str | None, sentence: str) -> None:
    with pytest.raises(CommandError, match=sentence):
        parse_manifest(Artifact(MERGED, is_merged=True, manifest_sha256=digest), content)
