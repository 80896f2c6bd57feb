"""Where a run's objects stand, and what a manifest may name."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from finetune_api.job_file import JobFile
from finetune_api.layout import FileEntry, RunLayout
from finetune_api.names import Stage
from finetune_api.spec import FineTuneJobSpec
from tests.builders.jobs import make_manifest

UID = "0f8fad5b-d9cb-469f-a165-70867728950e"


def test_a_run_stands_below_the_models_prefix_under_name_and_uid() -> None:
    layout = RunLayout("s3://models/bot/", "bot", UID)

    assert layout.run_uri == "s3://models/bot/runs/bot-0f8fad5b"
    assert layout.merged_uri == "s3://models/bot/runs/bot-0f8fad5b/merged"
    assert layout.current_uri == "s3://models/bot/current.json"


def test_a_runs_report_stands_in_its_folder_for_people_and_for_programs() -> None:
    layout = RunLayout("s3://models/bot", "bot", UID)

    assert layout.data_report_uri == "s3://models/bot/runs/bot-0f8fad5b/data-report.html"
    assert layout.data_report_json_uri == "s3://models/bot/runs/bot-0f8fad5b/data-report.json"


@pytest.mark.parametrize(
    ("shared", "cache"),
    [
        pytest.param(None, "s3://models/bot/.cache", id="below the model's prefix"),
        pytest.param("s3://models/cache/", "s3://models/cache", id="shared by all models"),
    ],
)
def test_what_runs_share_stands_in_the_cache_by_its_digest(shared: str | None, cache: str) -> None:
    layout = RunLayout("s3://models/bot/", "bot", UID, shared_cache_uri=shared)

    assert layout.cache_uri == cache
    assert layout.prepared_uri("d1") == f"{cache}/prepared/d1"
    assert layout.models_uri("d2") == f"{cache}/models/d2"


def test_the_job_file_knows_the_cache_of_its_job() -> None:
    spec = make_manifest(output__cacheURI="s3://models/cache")["spec"]
    job_file = JobFile(
        name="bot",
        namespace="ml",
        uid=UID,
        stage=Stage.PREPARE,
        attempt=1,
        trainer_image="i",
        spec=FineTuneJobSpec.model_validate(spec),
    )

    assert job_file.layout.cache_uri == "s3://models/cache"


def test_checkpoints_sort_by_name_as_by_step() -> None:
    layout = RunLayout("s3://models/bot", "bot", UID)
    steps = [5, 90, 100, 12_000]

    assert sorted(layout.checkpoint_uri(step) for step in steps) == [
        layout.checkpoint_uri(step) for step in steps
    ]


def test_claims_sort_by_name_as_by_number() -> None:
    layout = RunLayout("s3://models/bot", "bot", UID)
    numbers = [1, 9, 10, 1000]

    assert sorted(layout.claim_uri(number, "token") for number in numbers) == [
        layout.claim_uri(number, "token") for number in numbers
    ]
    assert layout.claim_uri(3, "token") == f"{layout.claims_uri}/00003/token"


@pytest.mark.parametrize("name", ["../x", "/x", "a//b", "a/../b", ".hidden", "a b", ""])
def test_a_manifest_cannot_name_a_file_outside_its_folder(name: str) -> None:
    with pytest.raises(ValidationError):
        FileEntry(name=name, size_bytes=1, sha256="0" * 64)
