"""What the operator is granted is what it uses, no more and no less: roles compared with the API server's audit log.

The operator runs with the chart's rights through every kind of life that a FineTuneJob can have.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from devcluster import ControlPlane
from devcluster.processes import Component
from finetune_api import PLURAL
from tests.integration.chart.rights import Account, Right, read_granted, read_used
from tests.integration.conftest import ROOT
from tests.integration.operator import kueue as kueue_stand_in
from tests.integration.operator.api_client import (
    BATCH,
    CORE,
    FINETUNE,
    MERGE,
    Api,
    RequestRefused,
    wait_until,
)
from tests.integration.operator.chart import install_without_deployment
from tests.integration.operator.conftest import make_namespace
from tests.integration.operator.kubelet import EXPORTED, PREPARED, TRAINED, Kubelet, job_is_there
from tests.integration.operator.kueue import PENDING, Kueue
from tests.integration.operator.process import OperatorProcess
from tests.integration.operator.progress_steps import make_report, make_token, post
from tests.integration.operator.steps import apply_job, delete_job

RELEASE = "finetune-operator"
CRDS = "apis/apiextensions.k8s.io/v1/customresourcedefinitions"
# Asked for by an admission plugin while something else is created; no request is ever made with it.
ASKED_BY_ADMISSION = {Right("finetune.dev/finetunejobs/finalizers", "update")}
BY_NAME = {"secrets": f"{RELEASE}-certificate", "coordination.k8s.io/leases": RELEASE}


class EnforcingControlPlane(ControlPlane):
    """A control plane that asks who sets blockOwnerDeletion whether they may, as OpenShift's do."""

    def _apiserver(self) -> Component:
        component = super()._apiserver()
        plugins = "--enable-admission-plugins=NodeRestriction"
        assert plugins in component.command
        return replace(
            component,
            command=tuple(
                f"{plugins},OwnerReferencesPermissionEnforcement" if word == plugins else word
                for word in component.command
            ),
        )


@pytest.fixture(scope="module")
def cluster(short_tmp: Path) -> Iterator[ControlPlane]:
    """A control plane of our own, with the CRDs of FineTuneJobs and of Workloads."""
    with EnforcingControlPlane(short_tmp / "rights") as own:
        api = Api(own, "default")
        _install_crd(api, ROOT / "crds/finetunejobs.yaml")
        kueue_stand_in.install(api, *kueue_stand_in.SERVED)
        yield own


def _install_crd(api: Api, path: Path) -> None:
    api.send("POST", CRDS, yaml.safe_load(path.read_text()))

    def is_served() -> bool:
        # Just created, it is not found for a moment, and then too busy.
        with contextlib.suppress(RequestRefused):
            return api.send("GET", f"{FINETUNE}/{PLURAL}") is not None
        return False

    wait_until(is_served, 30, lambda: "resource finetunejobs")


def test_in_all_namespaces_verbs_granted_are_verbs_used(cluster: ControlPlane, tmp_path: Path) -> None:
    home, api = make_namespace(cluster, "home"), make_namespace(cluster, "jobs")

    assert_exact(cluster, home, api, tmp_path)


def test_in_some_namespaces_verbs_granted_are_verbs_used(cluster: ControlPlane, tmp_path: Path) -> None:
    home, api = make_namespace(cluster, "home"), make_namespace(cluster, "jobs")

    assert_exact(cluster, home, api, tmp_path, watchNamespaces=f"{{{api.namespace}}}")


def assert_exact(cluster: ControlPlane, home: Api, api: Api, folder: Path, **values: str) -> None:
    """Run the operator through everything, and compare."""
    account = Account(home.namespace, RELEASE)
    operator = OperatorProcess(
        install_without_deployment(cluster, home, folder, **values), folder / "operator.log"
    )
    operator.start()
    try:
        live_through_everything(api, operator)
        uses = list(read_used(cluster, account))
        granted = read_granted(cluster, account)
    finally:
        operator.stop()
        cluster_wide = f"apis/rbac.authorization.k8s.io/v1/clusterrolebindings/{RELEASE}"
        api.send("DELETE", cluster_wide)

    assert [use for use in uses if not use.allowed] == []
    assert {use.right for use in uses} == granted - ASKED_BY_ADMISSION
    for resource, name in BY_NAME.items():
        assert {use.name for use in uses if use.right.resource == resource} == {name}
    if values:
        namespaces = {use.namespace for use in uses if use.right.resource not in BY_NAME}
        assert namespaces == {api.namespace}


def live_through_everything(api: Api, operator: OperatorProcess) -> None:
    """Make the operator do all that it ever does."""
    kubelet, kueue = Kubelet(api), Kueue(api)
    run_a_queued_gang_and_let_it_expire(api, kubelet, kueue, operator)
    suspend_a_gang_and_remove_its_folder(api, kubelet)
    wait_with_a_reason_and_lose_the_job(api, kubelet)


def run_a_queued_gang_and_let_it_expire(
    api: Api, kubelet: Kubelet, kueue: Kueue, operator: OperatorProcess
) -> None:
    """Workloads are listed, a Service is made, a token is reviewed, and the FineTuneJob is deleted when its time is up."""
    apply_job(api, "queued", parallelism__nodes=2, queueName="team-a", ttlSecondsAfterFinished=1)
    kubelet.succeed("queued-prepare-1", PREPARED)
    kueue.queue("queued-train-1")
    wait_until(
        lambda: PENDING[:40] in api.status("queued").get("message", ""),
        20,
        lambda: f"Kueue's reason: {api.status('queued')}; {operator.log.read_text()[-3000:]}",
    )
    kueue.admit("queued-train-1")
    kubelet.start_all("queued-train-1", 2)
    api.wait_for_status("queued", phase="Training")
    token = make_token(api, kubelet.pod_of("queued-train-1"))
    assert post(api, operator, token, make_report(40)) == 200
    for rank in range(2):
        kubelet.succeed("queued-train-1", TRAINED, rank)
    kubelet.succeed("queued-export-1", EXPORTED)
    wait_until(lambda: api.read(FINETUNE, PLURAL, "queued") is None, 20, lambda: "end of the finished job")


def suspend_a_gang_and_remove_its_folder(api: Api, kubelet: Kubelet) -> None:
    """The finalizer comes and goes, and what belongs to a stopped attempt is removed."""
    apply_job(api, "removed", parallelism__nodes=2, deletionPolicy="Delete")
    kubelet.succeed("removed-prepare-1", PREPARED)
    kubelet.start_all("removed-train-1", 2)
    api.wait_for_status("removed", phase="Training")
    api.patch_spec("removed", suspend=True)
    api.wait_for_status("removed", phase="Suspended")
    delete_job(api, "removed")
    kubelet.succeed("removed-cleanup-1", {"reason": "CleanedUp", "message": "7 objects were removed."})
    wait_until(lambda: api.read(FINETUNE, PLURAL, "removed") is None, 20, lambda: "end of the removed job")


def wait_with_a_reason_and_lose_the_job(api: Api, kubelet: Kubelet) -> None:
    """Events are read for the reason, and a child Job that somebody deleted is looked for."""
    apply_job(api, "waiting")
    kubelet.assign(kubelet.pod_of("waiting-prepare-1"), "some-node")
    wait_until(
        lambda: "waitingSince" in api.status("waiting"), 20, lambda: "wait that is long enough to ask why"
    )
    api.delete(BATCH, "jobs", "waiting-prepare-1")
    kubelet.obey_deletion("waiting-prepare-1")
    job_is_there(api, "waiting-prepare-2")


def test_without_the_right_to_finalizers_no_child_is_created_on_such_a_cluster(
    cluster: ControlPlane, tmp_path: Path
) -> None:
    """The one right that no request shows: an admission plugin wants it of who sets blockOwnerDeletion."""
    home, api = make_namespace(cluster, "home"), make_namespace(cluster, "jobs")
    installation = install_without_deployment(cluster, home, tmp_path)
    role = f"apis/rbac.authorization.k8s.io/v1/clusterroles/{RELEASE}"
    rules = (api.send("GET", role) or {})["rules"]
    reduced = [rule for rule in rules if "finetunejobs/finalizers" not in rule["resources"]]
    assert len(reduced) == len(rules) - 1
    api.send("PATCH", role, {"rules": reduced}, MERGE)
    operator = OperatorProcess(installation, tmp_path / "operator.log")
    operator.start()
    try:
        apply_job(api, "refused")
        status = api.wait_for_status("refused", reason="Forbidden")
        assert "cannot set blockOwnerDeletion" in status["message"]
        assert api.read(CORE, "configmaps", "refused-prepare-1") is None
    finally:
        operator.stop()
