"""Deleting a FineTuneJob takes its children along; applying it again is a new run.

The garbage collector learns of a new kind within half a minute, so these come after the tests of the stages.
"""

from __future__ import annotations

from finetune_api import PLURAL
from tests.integration.operator.api_client import BATCH, CORE, FINETUNE, Api, wait_until
from tests.integration.operator.kubelet import Kubelet, job_is_there
from tests.integration.operator.test_lifecycle import apply_job


def test_deleting_the_job_removes_its_children(api: Api, kubelet: Kubelet) -> None:
    apply_job(api)
    kubelet.start("bot-prepare-1")

    api.delete(FINETUNE, PLURAL, "bot")

    def leftovers() -> list[str]:
        children = [*api.list_objects(BATCH, "jobs"), *api.list_objects(CORE, "configmaps")]
        return [each["metadata"]["name"] for each in children if each["metadata"]["name"].startswith("bot")]

    wait_until(lambda: not leftovers(), 90, lambda: f"empty namespace; there are {leftovers()}")


def test_deleting_and_applying_the_same_job_again_runs_it_anew(api: Api, kubelet: Kubelet) -> None:
    apply_job(api)
    kubelet.start("bot-prepare-1")
    first = job_is_there(api, "bot-prepare-1")

    api.delete(FINETUNE, PLURAL, "bot")
    second = apply_job(api)

    def made_anew() -> bool:
        job = api.read(BATCH, "jobs", "bot-prepare-1")
        return job is not None and job["metadata"]["ownerReferences"][0]["uid"] == second["metadata"]["uid"]

    wait_until(made_anew, 90)
    assert second["metadata"]["uid"] != first["metadata"]["ownerReferences"][0]["uid"]
    kubelet.start("bot-prepare-1")
    api.wait_for_status("bot", phase="Preparing")
