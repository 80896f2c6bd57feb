"""FineTuneJobs with the status, and the children, that the first version of the operator wrote: they go on where they are.

`tests/golden/stored_objects/first` holds them in every phase, as that version left them on a real control plane.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from devcluster import ControlPlane
from finetune_api import PLURAL
from tests.integration.operator.api_client import BATCH, CORE, FINETUNE, MERGE, Api, JsonObject, wait_until
from tests.integration.operator.conftest import make_namespace
from tests.integration.operator.kubelet import (
    EXPORTED,
    PREPARED,
    TRAINED,
    Kubelet,
    job_is_there,
    write_status,
)
from tests.integration.operator.nodes import StandInNodes
from tests.integration.operator.process import OperatorProcess
from tests.integration.operator.steps import apply_job, attempts, child_jobs

STORED = Path(__file__).parents[2] / "golden/stored_objects/first"
TO_THE_END: dict[str, tuple[tuple[str, JsonObject], ...]] = {
    "pending": (("prepare-1", PREPARED), ("train-1", TRAINED), ("export-1", EXPORTED)),
    "preparing": (("prepare-1", PREPARED), ("train-1", TRAINED), ("export-1", EXPORTED)),
    "queued": (("train-1", TRAINED), ("export-1", EXPORTED)),
    "training": (("train-1", TRAINED), ("export-1", EXPORTED)),
    "training-again": (("train-2", TRAINED), ("export-1", EXPORTED)),
    "restarting": (("train-2", TRAINED), ("export-1", EXPORTED)),
    "exporting": (("export-1", EXPORTED),),
}
ENDED = ("succeeded", "failed", "restarts-exhausted")
CHANGED = ("restarts-exhausted as retried", "training as suspended")


def restore(api: Api, kubelet: Kubelet, name: str) -> JsonObject:
    """Put the stored objects into the namespace, with the uids that they get there. Returns the status."""
    text = (STORED / f"{name}.json").read_text().replace("NAMESPACE", api.namespace)
    stored = json.loads(text)
    old = stored["finetuneJob"]
    created = api.create(FINETUNE, PLURAL, make_job(old))
    uids = {old["metadata"]["uid"]: created["metadata"]["uid"]}
    for child in stored["children"]:
        made = api.create(BATCH, "jobs", with_uids(without_uid(child["job"]), uids))
        uids[child["job"]["metadata"]["uid"]] = made["metadata"]["uid"]
        api.create(CORE, "configmaps", with_uids(child["configMap"], uids))
        restore_pod(api, kubelet, child)
    status: JsonObject = with_uids(old["status"], uids)
    api.send("PATCH", f"{api.path(FINETUNE, PLURAL, 'bot')}/status", {"status": status}, MERGE)
    return status


def make_job(old: JsonObject) -> JsonObject:
    """The FineTuneJob as it was written."""
    kind = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob"}
    return {**kind, "metadata": {"name": old["metadata"]["name"]}, "spec": old["spec"]}


def restore_pod(api: Api, kubelet: Kubelet, child: JsonObject) -> None:
    """Let the child's pod be as it was, and the Job controller see it."""
    name, status = child["job"]["metadata"]["name"], child["pod"]
    pod = kubelet.pod_of(name)
    if status is None or status["phase"] == "Pending":
        return
    write_status(api, pod, status)
    ended = {"Succeeded": "Complete", "Failed": "Failed"}.get(status["phase"])
    if ended is not None:
        wait_until(
            lambda: ended in [c["type"] for c in job_is_there(api, name)["status"].get("conditions", ())]
        )


def without_uid(manifest: JsonObject) -> JsonObject:
    """A manifest as one creates it."""
    metadata = {key: value for key, value in manifest["metadata"].items() if key != "uid"}
    return {**manifest, "metadata": metadata}


def with_uids(content: Any, uids: dict[str, str]) -> Any:
    """The same with the uids of this cluster."""
    text = json.dumps(content)
    for old, new in uids.items():
        text = text.replace(old, new)
    return json.loads(text)


@dataclass(frozen=True)
class Restored:
    """Stored objects in a namespace of their own."""

    api: Api
    kubelet: Kubelet
    status: JsonObject
    children: list[str]


@pytest.fixture(scope="module")
def restored(
    control_plane: ControlPlane, operator: OperatorProcess, nodes: StandInNodes
) -> dict[str, Restored]:
    """All of them, put there while no operator ran; then the upgraded one was started."""
    with operator.down():
        return {name: restore_all(control_plane, name) for name in (*TO_THE_END, *ENDED, *CHANGED)}


def restore_all(control_plane: ControlPlane, name: str) -> Restored:
    """Restore what one file holds; `training as suspended` holds what `training` does."""
    api = make_namespace(control_plane, "upgrade")
    kubelet = Kubelet(api)
    status = restore(api, kubelet, name.partition(" as ")[0])
    return Restored(api, kubelet, status, child_jobs(api))


@pytest.mark.parametrize("phase", TO_THE_END)
def test_a_job_under_way_goes_on_with_its_own_children_to_its_end(
    restored: dict[str, Restored], phase: str
) -> None:
    api, kubelet, before = restored[phase].api, restored[phase].kubelet, restored[phase].status

    for child, message in TO_THE_END[phase]:
        kubelet.start(f"bot-{child}")
        kubelet.succeed(f"bot-{child}", message)
    status = api.wait_for_status("bot", phase="Succeeded")

    known = [(each["stage"], each["number"]) for each in before["attempts"]]
    assert [(each["stage"], each["number"]) for each in status["attempts"]][: len(known)] == known
    assert status["provenance"].items() >= before.get("provenance", {}).items()
    expected = {*restored[phase].children, *(f"bot-{each}" for each, _ in TO_THE_END[phase])}
    assert set(child_jobs(api)) <= expected


@pytest.mark.parametrize("phase", ENDED)
def test_a_finished_job_stays_as_it_is(restored: dict[str, Restored], phase: str) -> None:
    api, before = restored[phase].api, restored[phase].status

    apply_job(api, "later")
    job_is_there(api, "later-prepare-1")

    status = api.status("bot")
    for field in ("phase", "reason", "message", "completionTime", "conditions"):
        assert status[field] == before[field], field
    assert [each["outcome"] for each in status["attempts"]] == [
        each["outcome"] for each in before["attempts"]
    ]


def test_a_job_that_failed_under_the_first_version_can_be_retried(restored: dict[str, Restored]) -> None:
    api, kubelet = (
        restored["restarts-exhausted as retried"].api,
        restored["restarts-exhausted as retried"].kubelet,
    )

    api.patch_spec("bot", retry=1)

    kubelet.start("bot-train-2")
    api.wait_for_status("bot", phase="Training", observedRetry=1)


def test_a_job_that_trains_under_the_first_version_can_be_suspended(restored: dict[str, Restored]) -> None:
    api = restored["training as suspended"].api

    api.patch_spec("bot", suspend=True)

    status = api.wait_for_status("bot", phase="Suspended")
    assert status["checkpoint"]["step"] == 10
    assert attempts(api)[-1] == ("train", 1, "Stopped", "Suspended")
