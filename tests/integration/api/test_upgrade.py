"""A FineTuneJob that was stored before the life cycle was in the API lives on under the CRD of today."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from devcluster import ControlPlane
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import FineTuneJobStatus
from tests.builders.jobs import make_manifest
from tests.integration.operator.api_client import FINETUNE, MERGE, Api, RequestRefused

ROOT = Path(__file__).parents[3]
BEFORE = Path(__file__).parent / "fixtures/finetunejobs-before-the-life-cycle.yaml"
TODAY = ROOT / "crds/finetunejobs.yaml"
CRD = "apis/apiextensions.k8s.io/v1/customresourcedefinitions"
CRD_NAME = "finetunejobs.finetune.dev"
# What the operator of that time wrote.
STATUS: dict[str, Any] = {
    "observedGeneration": 1,
    "phase": "Training",
    "reason": "Training",
    "conditions": [
        {
            "type": "Accepted",
            "status": "True",
            "reason": "Accepted",
            "message": "",
            "lastTransitionTime": "2025-06-01T08:00:00Z",
            "observedGeneration": 1,
        }
    ],
    "attempts": [{"number": 1, "stage": "train", "outcome": "Running", "jobUID": "u"}],
    "progress": {"step": 3, "totalSteps": 30, "loss": 1.5},
    "restarts": 1,
}
# Two things that were taken then and are refused now: columns that the format does not read, and a GPU without domain.
REFUSED_TODAY: dict[str, Any] = {
    "dataset__train": [
        {"source": "s3://data/a.jsonl", "format": "Messages", "columns": {"input": "q", "target": "a"}}
    ],
    "resources__gpuResourceName": "gpu",
}
JOBS: dict[str, dict[str, Any]] = {"running": {}, "refused-today": REFUSED_TODAY}


def wait_until(holds: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, f"{what} did not happen within 60 s"
        time.sleep(0.1)


def install(api: Api, file: Path) -> None:
    crd = yaml.safe_load(file.read_text(encoding="utf-8"))
    found = api.send("GET", f"{CRD}/{CRD_NAME}")
    if found is None:
        api.send("POST", CRD, crd)
    else:
        crd["metadata"]["resourceVersion"] = found["metadata"]["resourceVersion"]
        api.send("PUT", f"{CRD}/{CRD_NAME}", crd)


def is_served(api: Api, field: str | None = None) -> bool:
    """Whether the resource is there and, where a field is named, its schema knows it."""
    strict = f"{api.path(FINETUNE, 'finetunejobs')}?dryRun=All&fieldValidation=Strict"
    try:
        changes: dict[str, Any] = {field: 1} if field else {}
        probe = make_manifest(name="probe", **changes)
        return api.send("POST", strict, probe) is not None
    except RequestRefused:
        return False


@pytest.fixture(scope="module")
def old_jobs(short_tmp: Path) -> Iterator[Api]:
    """An API server with jobs of then, on which the CRD of today has replaced that of then."""
    with ControlPlane(short_tmp / "upgrade") as control_plane:
        api = Api(control_plane, "default")
        install(api, BEFORE)
        wait_until(lambda: is_served(api), "serving the old CRD")
        for name, changes in JOBS.items():
            api.create(FINETUNE, "finetunejobs", make_manifest(name=name, **changes))
            write_status(api, name, STATUS)
        install(api, TODAY)
        wait_until(lambda: is_served(api, "retry"), "serving the CRD of today")
        yield api


def write_status(api: Api, name: str, status: dict[str, Any]) -> None:
    api.send("PATCH", f"{api.path(FINETUNE, 'finetunejobs', name)}/status", {"status": status}, MERGE)


def edit(api: Api, name: str, spec: dict[str, Any]) -> None:
    api.send("PATCH", api.path(FINETUNE, "finetunejobs", name), {"spec": spec}, MERGE)


def read(api: Api, name: str) -> dict[str, Any]:
    found = api.read(FINETUNE, "finetunejobs", name)
    assert found is not None
    return found


@pytest.mark.parametrize("name", JOBS)
def test_it_is_read_with_the_new_defaults_and_parsed(old_jobs: Api, name: str) -> None:
    found = read(old_jobs, name)

    spec, status = (
        FineTuneJobSpec.model_validate(found["spec"]),
        FineTuneJobStatus.model_validate(found["status"]),
    )
    # What is no default any more stays as it was promised when the job was created.
    manifest = make_manifest(**JOBS[name], dataset__preparation={"maxLength": 1024})
    assert spec == FineTuneJobSpec.model_validate(manifest["spec"])
    assert (spec.dataset.preparation.leakage, spec.dataset.preparation.unicode) == ("Drop", "None")
    assert (spec.retry, spec.suspend, found["spec"]["retry"]) == (0, False, 0)
    assert (status.phase, status.restarts, status.observed_retry) == ("Training", 1, 0)


@pytest.mark.parametrize("name", JOBS)
def test_its_status_is_written_whatever_the_rules_of_today_say_of_its_spec(old_jobs: Api, name: str) -> None:
    write_status(old_jobs, name, {"phase": "Restarting", "observedRetry": 0, "activeSeconds": 60})

    assert read(old_jobs, name)["status"]["activeSeconds"] == 60
    write_status(old_jobs, name, {"phase": "Training"})


@pytest.mark.parametrize("name", JOBS)
def test_it_can_be_suspended_and_given_a_deadline(old_jobs: Api, name: str) -> None:
    edit(old_jobs, name, {"suspend": True, "failurePolicy": {"activeDeadlineSeconds": 60}})

    edit(old_jobs, name, {"suspend": False})


def test_its_own_manifest_can_be_put_in_its_place_again(old_jobs: Api) -> None:
    """What the old CRD wrote into the object and today's does not, is no change."""
    found = read(old_jobs, "running")
    assert "lora" in found["spec"]["method"], "the old CRD wrote the defaults of the block"
    assert found["spec"]["dataset"]["preparation"]["maxLength"] == 1024, "the old CRD had a default"
    manifest = make_manifest(name="running")
    manifest["metadata"]["resourceVersion"] = found["metadata"]["resourceVersion"]

    replaced = old_jobs.send("PUT", old_jobs.path(FINETUNE, "finetunejobs", "running"), manifest)

    assert replaced is not None
    assert "lora" not in replaced["spec"]["method"]
    assert "maxLength" not in replaced["spec"]["dataset"]["preparation"]


def test_what_defines_its_run_still_cannot_be_changed(old_jobs: Api) -> None:
    for spec in (
        {"method": {"lora": {"rank": 8}}},
        {"training": {"globalBatchSize": 8}},
        {"training": {"seed": 1}},
    ):
        with pytest.raises(RequestRefused, match="is immutable"):
            edit(old_jobs, "running", spec)
