"""The operator is killed and restarted: whenever that happens, the result is the same and nothing exists twice."""

from __future__ import annotations

from finetune_api import PLURAL
from tests.builders.jobs import make_manifest
from tests.integration.operator.api_client import BATCH, CORE, FINETUNE, Api, wait_until
from tests.integration.operator.kubelet import EXPORTED, PREPARED, TRAINED, Kubelet, job_is_there
from tests.integration.operator.process import OperatorProcess
from tests.integration.operator.steps import apply_job


def attempts(api: Api) -> list[tuple[str, int, str]]:
    """Stage, number and outcome of every attempt in status."""
    return [(a["stage"], a["number"], a["outcome"]) for a in api.status("bot")["attempts"]]


def test_killed_in_every_stage_it_ends_with_one_job_an_attempt(
    api: Api, kubelet: Kubelet, operator: OperatorProcess
) -> None:
    apply_job(api)
    for stage, message in (("prepare", PREPARED), ("train", TRAINED), ("export", EXPORTED)):
        kubelet.start(f"bot-{stage}-1")
        operator.kill()
        kubelet.succeed(f"bot-{stage}-1", message)
        operator.start()

    api.wait_for_status("bot", phase="Succeeded")
    assert attempts(api) == [
        ("prepare", 1, "Succeeded"),
        ("train", 1, "Succeeded"),
        ("export", 1, "Succeeded"),
    ]
    assert api.status("bot")["provenance"]["rowsUsed"] == 480
    api.wait_for_event("bot", "Normal", "Succeeded")


def test_what_happens_while_it_is_down_is_handled_at_its_start(
    api: Api, kubelet: Kubelet, operator: OperatorProcess
) -> None:
    apply_job(api)
    kubelet.start("bot-prepare-1")
    operator.kill()
    api.create(FINETUNE, PLURAL, make_manifest("second", api.namespace))
    kubelet.fail("bot-prepare-1", 20)

    operator.start()

    job_is_there(api, "second-prepare-1")
    job_is_there(api, "bot-prepare-2")
    wait_until(lambda: attempts(api) == [("prepare", 1, "Failed"), ("prepare", 2, "Running")])


def test_a_child_made_right_before_a_kill_is_adopted(
    api: Api, kubelet: Kubelet, operator: OperatorProcess
) -> None:
    """The window between creating the Job and writing status: status is put back to what it was before."""
    apply_job(api)
    kubelet.start("bot-prepare-1")
    api.wait_for_status("bot", phase="Preparing")
    operator.kill()
    job = api.read(FINETUNE, PLURAL, "bot")
    assert job is not None
    del job["status"]
    api.send("PUT", f"{api.path(FINETUNE, PLURAL, 'bot')}/status", job)
    before = job_is_there(api, "bot-prepare-1")["metadata"]["uid"]

    operator.start()

    api.wait_for_status("bot", phase="Preparing")
    assert attempts(api) == [("prepare", 1, "Running")]
    assert [each["metadata"]["uid"] for each in api.list_objects(BATCH, "jobs")] == [before]


def test_a_config_map_left_for_an_older_spec_is_replaced(
    api: Api, operator: OperatorProcess, kubelet: Kubelet
) -> None:
    """The window between creating the ConfigMap and the Job."""
    operator.kill()
    created = apply_job(api)
    owner = {
        "apiVersion": created["apiVersion"],
        "kind": created["kind"],
        "name": "bot",
        "uid": created["metadata"]["uid"],
        "controller": True,
    }
    left = {"metadata": {"name": "bot-prepare-1", "ownerReferences": [owner]}, "data": {"job.json": "{}"}}
    api.create(CORE, "configmaps", {**left, "immutable": True})

    operator.start()

    job_is_there(api, "bot-prepare-1")
    config_map = api.read(CORE, "configmaps", "bot-prepare-1")
    assert config_map is not None
    assert '"spec"' in config_map["data"]["job.json"]


def test_a_restart_writes_nothing_where_nothing_has_changed(
    api: Api, kubelet: Kubelet, operator: OperatorProcess
) -> None:
    apply_job(api)
    kubelet.start("bot-prepare-1")
    kubelet.succeed("bot-prepare-1", PREPARED)
    kubelet.start("bot-train-1")
    before = api.wait_for_status("bot", phase="Training")
    version = api.read(FINETUNE, PLURAL, "bot")["metadata"]["resourceVersion"]  # type: ignore[index]

    operator.kill()
    operator.start()
    apply_job_name = make_manifest("later", api.namespace)
    api.create(FINETUNE, PLURAL, apply_job_name)
    job_is_there(api, "later-prepare-1")

    assert api.status("bot") == before
    assert api.read(FINETUNE, PLURAL, "bot")["metadata"]["resourceVersion"] == version  # type: ignore[index]


def test_it_can_be_limited_to_namespaces(api: Api, kubelet: Kubelet, operator: OperatorProcess) -> None:
    assert operator.stop() == 0
    try:
        operator.start(FINETUNE_WATCH_NAMESPACES=api.namespace)
        elsewhere = {"metadata": {"name": f"{api.namespace}-elsewhere"}}
        api.send("POST", "api/v1/namespaces", elsewhere)
        stranger = make_manifest("bot", f"{api.namespace}-elsewhere")
        api.send("POST", f"{FINETUNE}/namespaces/{api.namespace}-elsewhere/{PLURAL}", stranger)
        apply_job(api)
        kubelet.start("bot-prepare-1")
        api.wait_for_status("bot", phase="Preparing")

        other = api.send("GET", f"{FINETUNE}/namespaces/{api.namespace}-elsewhere/{PLURAL}/bot")
        assert other is not None
        assert "status" not in other
    finally:
        operator.stop()
        operator.start()
