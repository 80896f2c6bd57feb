"""The Job that removes a run's folder: it outlives the FineTuneJob, and leaves nothing itself."""

from __future__ import annotations

import json
from typing import Any

from finetune_api import names
from finetune_api.job_file import JobFile
from finetune_api.names import Stage
from finetune_operator.kubernetes_objects import JsonObject
from finetune_operator.manifests import desired_objects
from tests.unit.operator.builders import UID, make_job, make_pod_settings

# What an object may carry in annotations, all of them together.
MOST_ANNOTATION_BYTES = 256 * 1024


def cleanup_job(**changes: Any) -> JsonObject:
    objects = desired_objects(make_job(**changes), Stage.CLEANUP, 1, make_pod_settings())
    assert (objects.config_map, objects.service) == (None, None)
    return objects.job


def mounted_job_file(job: JsonObject) -> str:
    """What the pod reads as its job file: the annotation that the downward API gives to it."""
    template = job["spec"]["template"]
    (volume,) = (each for each in template["spec"]["volumes"] if "downwardAPI" in each)
    mounts = {each["name"]: each["mountPath"] for each in template["spec"]["containers"][0]["volumeMounts"]}
    (item,) = volume["downwardAPI"]["items"]
    assert f"{mounts[volume['name']]}/{item['path']}" == names.JOB_FILE_PATH
    ((name, content),) = template["metadata"]["annotations"].items()
    assert item["fieldRef"] == {"fieldPath": f"metadata.annotations['{name}']"}
    text: str = content
    return text


def test_it_belongs_to_nobody_and_removes_itself() -> None:
    job = cleanup_job()

    assert job["metadata"]["name"] == "bot-cleanup-1"
    assert "ownerReferences" not in job["metadata"]
    assert job["metadata"]["labels"]["finetune.dev/job-uid"] == UID
    assert job["spec"]["ttlSecondsAfterFinished"] == 600
    # Also one whose pod can never start comes to an end, and only then does the TTL begin.
    assert job["spec"]["activeDeadlineSeconds"] > 0


def test_it_knows_the_run_without_a_config_map() -> None:
    job = make_job()
    assert job.spec is not None

    parsed = JobFile.model_validate_json(mounted_job_file(cleanup_job()))

    assert parsed.stage is Stage.CLEANUP
    assert parsed.layout.run_uri == "s3://models/support-bot/runs/bot-01234567"
    assert parsed.spec.output == job.spec.output


def test_the_largest_spec_fits_into_its_annotation() -> None:
    rows = [{"input_text": "x" * 3000, "target_text": "y"}] * 256

    job = cleanup_job(dataset__train=[{"inline": rows}], dataset__chatTemplate="z" * 65_536)

    assert len(mounted_job_file(job)) < MOST_ANNOTATION_BYTES / 4


def test_it_runs_the_small_image_with_little() -> None:
    (container,) = cleanup_job(image="mine:1", parallelism__nodes=4)["spec"]["template"]["spec"]["containers"]

    assert container["image"] == "trainer-prepare:2"
    assert container["args"] == ["cleanup", "--job", names.JOB_FILE_PATH]
    assert container["resources"]["limits"] == {"memory": "256Mi"}


def test_it_mounts_only_the_keys_of_the_outputs_store() -> None:
    source = {"source": "s3://data/a", "store": {"credentialsSecretRef": {"name": "data-keys"}}}
    job = cleanup_job(
        dataset__train=[source, {"source": "configMap://rows/a.jsonl"}],
        model__store={"credentialsSecretRef": {"name": "model-keys"}},
    )

    sources = [
        next(value for name, value in volume.items() if name != "name")
        for volume in job["spec"]["template"]["spec"]["volumes"]
    ]

    assert [each["secretName"] for each in sources if "secretName" in each] == ["s3-credentials"]
    assert "data-keys" not in json.dumps(job)


def test_it_reports_no_progress() -> None:
    pod = cleanup_job()["spec"]["template"]["spec"]

    assert not [volume for volume in pod["volumes"] if "projected" in volume]
    assert "FINETUNE_PROGRESS_URL" not in {each["name"] for each in pod["containers"][0]["env"]}
