"""Rights that are taken away: said in status, tried again slowly, and of no concern to other jobs."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from devcluster import ControlPlane
from tests.integration.operator.api_client import Api, JsonObject, wait_until
from tests.integration.operator.audit import read_writes
from tests.integration.operator.chart import install_without_deployment
from tests.integration.operator.conftest import make_namespace
from tests.integration.operator.kubelet import PREPARED, Kubelet, job_is_there
from tests.integration.operator.nodes import StandInNodes
from tests.integration.operator.process import OperatorProcess
from tests.integration.operator.steps import apply_job, condition, reach_preparing

RBAC = "apis/rbac.authorization.k8s.io/v1"
ROLE = f"{RBAC}/clusterroles/finetune-operator"
BINDINGS = f"{RBAC}/clusterrolebindings"


@contextmanager
def without_verb(api: Api, resource: str, verb: str) -> Iterator[None]:
    """Take one verb on one resource from the operator's ClusterRole for a while."""
    role = api.send("GET", ROLE)
    assert role is not None
    reduced = copy.deepcopy(role)
    for rule in reduced["rules"]:
        if resource in rule["resources"] and verb in rule["verbs"]:
            rule["resources"].remove(resource)
            if not rule["resources"]:
                rule["resources"] = ["nothing"]
            rest = [each for each in rule["verbs"] if each != verb]
            reduced["rules"].append({**rule, "resources": [resource], "verbs": rest})
    replace_rules(api, ROLE, reduced["rules"])
    try:
        yield
    finally:
        replace_rules(api, ROLE, role["rules"])


def replace_rules(api: Api, role: str, rules: list[JsonObject]) -> None:
    """Write the rules of a role."""
    api.send("PATCH", role, {"rules": rules}, "application/merge-patch+json")


def test_a_job_that_may_not_be_created_says_forbidden_and_goes_on_when_it_may(
    api: Api, kubelet: Kubelet, control_plane: ControlPlane
) -> None:
    apply_job(api, "running")
    reach_preparing(api, kubelet, "running")
    with without_verb(api, "jobs", "create"):
        apply_job(api)
        status = api.wait_for_status("bot", reason="Forbidden")
        assert status["phase"] == "Pending"
        assert "Job bot-prepare-1 cannot be created" in status["message"]
        assert condition(status, "Accepted") == ("True", "Accepted")
        kubelet.succeed("running-prepare-1", PREPARED)
        api.wait_for_status("running", reason="Forbidden")
        refused = [each for each in read_writes(control_plane, api.namespace) if each.code == 403]
        assert len(refused) < 10, "it is tried again slowly"

    reach_preparing(api, kubelet)
    job_is_there(api, "running-train-1")


def test_without_its_binding_it_survives_and_goes_on_when_it_is_back(
    api: Api, kubelet: Kubelet, operator: OperatorProcess, control_plane: ControlPlane
) -> None:
    apply_job(api, "before")
    reach_preparing(api, kubelet, "before")
    with without_bindings(api):
        apply_job(api)
        kubelet.succeed("before-prepare-1", PREPARED)
        wait_until(lambda: "orbidden" in operator.log.read_text(), 30, lambda: "word of it in the log")
        assert api.status("bot") == {}

    api.wait_for_status("before", 60, phase="Queued")
    kubelet.start("bot-prepare-1")
    api.wait_for_status("bot", 60, phase="Preparing")
    assert operator.is_ready()


@contextmanager
def without_bindings(api: Api) -> Iterator[None]:
    """Delete the operator's ClusterRoleBindings for a while."""
    listed = api.send("GET", BINDINGS)
    assert listed is not None
    ours = [each for each in listed["items"] if each["roleRef"]["name"].startswith("finetune-operator")]
    assert ours
    for binding in ours:
        api.send("DELETE", f"{BINDINGS}/{binding['metadata']['name']}")
    try:
        yield
    finally:
        for binding in ours:
            kept = {key: binding[key] for key in ("roleRef", "subjects")}
            api.send("POST", BINDINGS, {"metadata": {"name": binding["metadata"]["name"]}, **kept})


def test_a_namespace_that_withdraws_its_role_does_not_concern_the_others(
    control_plane: ControlPlane,
    crd_kubeconfig: Path,
    operator: OperatorProcess,
    nodes: StandInNodes,
    tmp_path: Path,
) -> None:
    """In the namespaced mode each namespace has a RoleBinding of its own."""
    home, kept, withdrawn = (
        make_namespace(control_plane, prefix) for prefix in ("home", "kept", "withdrawn")
    )
    values = {
        "watchNamespaces": f"{{{kept.namespace},{withdrawn.namespace}}}",
        "fullnameOverride": home.namespace,
    }
    installation = install_without_deployment(control_plane, home, tmp_path, **values)
    limited = OperatorProcess(installation, tmp_path / "operator.log")
    operator.stop()
    try:
        limited.start()
        apply_job(kept, "before")
        apply_job(withdrawn, "before")
        job_is_there(withdrawn, "before-prepare-1")
        for binding in withdrawn.list_objects(RBAC, "rolebindings"):
            withdrawn.delete(RBAC, "rolebindings", binding["metadata"]["name"])

        apply_job(withdrawn, "after")
        apply_job(kept, "after")
        kubelet = Kubelet(kept)
        reach_preparing(kept, kubelet, "before")
        reach_preparing(kept, kubelet, "after")
        assert withdrawn.status("after") == {}
        assert limited.is_ready()
    finally:
        limited.stop()
        operator.start()
