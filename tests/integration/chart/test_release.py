"""The chart's life on a real API server: install, upgrade, uninstall; and what its roles allow."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from devcluster import ControlPlane
from finetune_api import names
from finetune_api.names import Stage
from finetune_operator.job_resource import parse_job
from finetune_operator.lease import EXIT_LEASE_LOST
from finetune_operator.manifests import desired_objects
from finetune_operator.settings import load_settings
from tests.builders.jobs import make_manifest
from tests.integration.chart.conftest import CHART, NAMESPACE, RELEASE, Helm
from tests.integration.chart.hook import (
    HOOK,
    Uninstallation,
    environment_of,
    kubectl,
    log_in,
    read,
    wait_until,
)
from tests.integration.chart.rights import Account, Right, read_granted, read_used
from tests.integration.operator.api_client import Api
from tests.integration.operator.chart import Installation
from tests.integration.operator.kubelet import TRAINED, Kubelet, job_is_there
from tests.integration.operator.process import OperatorProcess
from tests.integration.operator.steps import apply_job, reach_training

CERTIFICATE, LEASE = f"secrets/{RELEASE}-certificate", f"leases/{RELEASE}"
IN_NAMESPACE = ("--namespace", NAMESPACE)
FINALIZERS = [names.FINALIZER, "example.com/theirs"]


@pytest.fixture(scope="module")
def cluster(short_tmp: Path) -> Iterator[ControlPlane]:
    """A control plane of our own: the release must not meet a CRD that another test installed."""
    with ControlPlane(short_tmp / "chart") as own:
        yield own


@pytest.fixture
def release(helm: Helm, cluster: ControlPlane) -> Iterator[ControlPlane]:
    """The chart, installed; uninstalled afterwards whatever the test did."""
    _ensure_installed(helm, cluster)
    yield cluster
    arguments = (*IN_NAMESPACE, "--ignore-not-found", "--no-hooks")
    helm.run("uninstall", RELEASE, *arguments, kubeconfig=cluster.kubeconfig)


def _ensure_installed(helm: Helm, cluster: ControlPlane) -> None:
    arguments = (*IN_NAMESPACE, "--create-namespace", "--set", "lease.durationSeconds=3")
    result = helm.run("install", RELEASE, str(CHART), *arguments, kubeconfig=cluster.kubeconfig)
    assert result.returncode == 0, result.stderr
    # Not --for=condition: that fails at once where the status has no conditions yet.
    served = ("--for=jsonpath={.status.acceptedNames.kind}=FineTuneJob", "--timeout=30s")
    kubectl(cluster, "wait", *served, "crd/finetunejobs.finetune.dev")


def _upgrade(helm: Helm, cluster: ControlPlane, *values: str) -> None:
    arguments = (*IN_NAMESPACE, "--reset-then-reuse-values", *values)
    result = helm.run("upgrade", RELEASE, str(CHART), *arguments, kubeconfig=cluster.kubeconfig)
    assert result.returncode == 0, result.stderr


def _patch(cluster: ControlPlane, target: str, changes: dict[str, Any], *more: str) -> None:
    patch = ("--type=merge", "--patch", json.dumps(changes))
    kubectl(cluster, *more, "patch", target, *patch)


def _apply_job(
    cluster: ControlPlane, name: str, finalizers: Sequence[str] = (), **changes: Any
) -> dict[str, Any]:
    manifest = make_manifest(name, **changes)
    manifest["metadata"]["finalizers"] = list(finalizers)
    kubectl(cluster, "apply", "--server-side", "-f", "-", stdin=json.dumps(manifest))
    return read(cluster, f"finetunejobs/{name}")


def _finalizers(cluster: ControlPlane, name: str) -> list[str]:
    found: list[str] = read(cluster, f"finetunejobs/{name}")["metadata"].get("finalizers", [])
    return found


# --- upgrade -------------------------------------------------------------------------------------------------------


def test_an_upgrade_keeps_what_the_operator_wrote(helm: Helm, release: ControlPlane) -> None:
    certificate = {"data": {"tls.crt": "Y2VydGlmaWNhdGU="}}
    held = {"spec": {"holderIdentity": "operator_1", "leaseDurationSeconds": 10}}
    _patch(release, CERTIFICATE, certificate, *IN_NAMESPACE)
    _patch(release, LEASE, held, *IN_NAMESPACE)
    for level in ("DEBUG", "WARNING"):
        _upgrade(helm, release, "--set", f"log.level={level}", "--set", f"commonLabels.level={level}")
    secret, lease = (read(release, *IN_NAMESPACE, each) for each in (CERTIFICATE, LEASE))
    assert secret["data"] == certificate["data"]
    assert lease["spec"] == held["spec"]
    assert {each["metadata"]["labels"]["level"] for each in (secret, lease)} == {"WARNING"}


def test_an_upgrade_touches_no_job_and_no_child(helm: Helm, release: ControlPlane) -> None:
    job = parse_job(_apply_job(release, "running"))
    container = read(release, *IN_NAMESPACE, f"deployments/{RELEASE}")["spec"]["template"]["spec"][
        "containers"
    ][0]
    settings = load_settings(environment_of(container, "operator"))
    children = desired_objects(job, Stage.TRAIN, 1, settings.pods)
    for child in (children.config_map, children.job):
        kubectl(release, "create", "-f", "-", stdin=json.dumps(child))
    targets = ("finetunejobs/running", "jobs/running-train-1", "configmaps/running-train-1")

    def versions() -> dict[str, str]:
        return {each: read(release, each)["metadata"]["resourceVersion"] for each in targets}

    wait_until(lambda: read(release, targets[1])["status"].get("active"), "pod of the child Job")
    before = versions()
    _upgrade(helm, release, "--set", "trainer.image.tag=9.9.9", "--set", "image.tag=9.9.9")
    assert versions() == before


def _start_operator(release: ControlPlane, folder: Path) -> OperatorProcess:
    """The operator as the release's Deployment would run it."""
    container = read(release, *IN_NAMESPACE, f"deployments/{RELEASE}")["spec"]["template"]["spec"][
        "containers"
    ][0]
    installation = Installation(
        log_in(release, RELEASE, folder / "operator.kubeconfig"),
        environment_of(container, "operator"),
        Api(release, NAMESPACE),
    )
    operator = OperatorProcess(installation, folder / "operator.log")
    operator.start()
    return operator


def test_an_upgraded_operator_goes_on_with_a_running_job(
    helm: Helm, release: ControlPlane, tmp_path: Path
) -> None:
    api = Api(release, "default")
    kubelet = Kubelet(api)
    operator = _start_operator(release, tmp_path)
    apply_job(api, "upgraded")
    reach_training(api, kubelet, "upgraded")
    targets = ("finetunejobs/upgraded", "jobs/upgraded-train-1", "configmaps/upgraded-train-1")
    wait_until(
        lambda: read(release, targets[1])["status"].get("ready"), "count of ready pods by the Job controller"
    )
    before = {each: read(release, each) for each in targets}

    assert operator.stop() == 0
    _upgrade(helm, release, "--set", "trainer.image.tag=9.9.9", "--set", "image.tag=9.9.9")
    operator = _start_operator(release, tmp_path)
    apply_job(api, "new")
    job_is_there(api, "new-prepare-1")
    after = {each: read(release, each) for each in targets}
    kubelet.succeed("upgraded-train-1", TRAINED)
    export = kubelet.pod_of("upgraded-export-1")["spec"]["containers"][0]
    assert operator.stop() == 0

    # Nothing was written, so nothing was restarted; and what follows runs with the image the run began with.
    assert after == before
    assert (
        export["image"]
        == before["jobs/upgraded-train-1"]["spec"]["template"]["spec"]["containers"][0]["image"]
    )


# --- uninstall -----------------------------------------------------------------------------------------------------


def test_uninstalling_strips_our_finalizer_and_keeps_the_jobs(
    helm: Helm, release: ControlPlane, tmp_path: Path
) -> None:
    _apply_job(release, "kept", finalizers=FINALIZERS)
    _apply_job(release, "plain")
    _apply_job(release, "going", finalizers=[names.FINALIZER])
    kubectl(release, "delete", "finetunejobs/going", "--wait=false")
    _patch(
        release, LEASE, {"spec": {"holderIdentity": "operator_1", "leaseDurationSeconds": 3}}, *IN_NAMESPACE
    )

    uninstallation = Uninstallation(helm, release, tmp_path)
    log = uninstallation.run_hook()
    code, output = uninstallation.wait()

    assert code == 0, output + log
    assert _finalizers(release, "kept") == FINALIZERS[1:]
    kept = {each["metadata"]["name"] for each in read(release, "finetunejobs")["items"]}
    assert {"kept", "plain"} <= kept
    assert "going" not in kept
    assert "default/kept" in log
    _patch(release, "finetunejobs/kept", {"metadata": {"finalizers": None}})


def test_uninstalling_leaves_nothing_but_the_crd(helm: Helm, release: ControlPlane, tmp_path: Path) -> None:
    uninstallation = Uninstallation(helm, release, tmp_path)
    uninstallation.run_hook()
    code, output = uninstallation.wait()
    assert code == 0, output
    kinds = "deployments,services,secrets,leases,jobs,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings"
    left = read(release, *IN_NAMESPACE, kinds, "--selector", f"app.kubernetes.io/instance={RELEASE}")["items"]
    assert [f"{each['kind']}/{each['metadata']['name']}" for each in left] == []
    assert read(release, "crd/finetunejobs.finetune.dev")
    # And it can be installed again: the CRD is adopted.
    _ensure_installed(helm, release)


def test_the_hook_is_granted_what_it_uses(helm: Helm, release: ControlPlane, tmp_path: Path) -> None:
    _apply_job(release, "finalized", FINALIZERS)
    account, granted = Account(NAMESPACE, HOOK), set[Right]()
    uninstallation = Uninstallation(helm, release, tmp_path)
    # Helm removes the roles when the hook has ended.
    uninstallation.on_end = lambda: granted.update(read_granted(release, account))
    began = time.time()
    uninstallation.run_hook()
    assert uninstallation.wait()[0] == 0
    uses = [use for use in read_used(release, account) if use.time >= began]
    assert [use for use in uses if not use.allowed] == []
    assert {use.right for use in uses} == granted
    _patch(release, "finetunejobs/finalized", {"metadata": {"finalizers": None}})


def test_the_hook_holds_the_lease_for_longer_than_the_uninstallation(
    helm: Helm, release: ControlPlane, tmp_path: Path
) -> None:
    held = {"holderIdentity": "operator_1", "leaseDurationSeconds": 3}
    _patch(release, LEASE, {"spec": held}, *IN_NAMESPACE)
    uninstallation = Uninstallation(helm, release, tmp_path)
    # Looked at before the pod's end is reported: after that Helm goes on and deletes the Lease.
    leases: list[dict[str, Any]] = []
    uninstallation.on_end = lambda: leases.append(read(release, *IN_NAMESPACE, LEASE))
    uninstallation.run_hook()
    assert uninstallation.wait()[0] == 0

    (taken,) = leases
    assert taken["spec"]["holderIdentity"].startswith(HOOK)
    assert taken["spec"]["leaseDurationSeconds"] > 120
    assert taken["spec"]["leaseTransitions"] == 1


def test_an_operator_that_runs_does_not_put_the_finalizer_back(
    helm: Helm, release: ControlPlane, tmp_path: Path
) -> None:
    operator = _start_operator(release, tmp_path)
    _apply_job(release, "guarded", deletionPolicy="Delete")
    wait_until(lambda: _finalizers(release, "guarded") == [names.FINALIZER], "finalizer")

    uninstallation = Uninstallation(helm, release, tmp_path)
    uninstallation.run_hook()
    found = _finalizers(release, "guarded")
    code, output = uninstallation.wait()

    assert operator.stop() == EXIT_LEASE_LOST
    assert code == 0, output
    assert found == _finalizers(release, "guarded") == []
    kubectl(release, "delete", "finetunejobs/guarded", "--timeout=20s")


def test_a_hook_that_fails_stops_the_uninstallation_and_says_why(
    helm: Helm, release: ControlPlane, tmp_path: Path
) -> None:
    _apply_job(release, "stuck", finalizers=FINALIZERS)
    uninstallation = Uninstallation(helm, release, tmp_path)
    wait_until(uninstallation.pending_pod, "pod of the hook")
    kubectl(release, "delete", f"clusterrolebinding/{HOOK}")
    # The chart's two retries would take half a minute.
    _patch(release, f"jobs/{HOOK}", {"spec": {"backoffLimit": 0}}, *IN_NAMESPACE)
    log = uninstallation.run_hook()
    code, output = uninstallation.wait()
    assert code != 0
    assert "BackoffLimitExceeded" in output
    assert "forbidden" in log
    assert "--no-hooks" in log
    assert read(release, *IN_NAMESPACE, f"deployments/{RELEASE}")
    assert _finalizers(release, "stuck") == FINALIZERS
    _patch(release, "finetunejobs/stuck", {"metadata": {"finalizers": None}})


def test_the_documented_patch_frees_a_job_without_the_operator(release: ControlPlane) -> None:
    _apply_job(release, "hanging", finalizers=[names.FINALIZER])
    kubectl(release, "delete", "finetunejobs/hanging", "--wait=false")
    readme = (CHART / "README.md").read_text()
    (line,) = [each.strip() for each in readme.splitlines() if '"finalizers":null' in each]
    program, *arguments = line.replace("NAMESPACE", "default").replace("NAME", "hanging").split()
    assert program == "kubectl"
    kubectl(release, *(each.strip("'") for each in arguments))
    names_left = {each["metadata"]["name"] for each in read(release, "finetunejobs")["items"]}
    assert "hanging" not in names_left


# --- rights --------------------------------------------------------------------------------------------------------

MAY = {
    "list FineTuneJobs": ("list finetunejobs.finetune.dev", "yes"),
    "write their status": ("update finetunejobs.finetune.dev --subresource=status", "yes"),
    "change their finalizers": ("patch finetunejobs.finetune.dev", "yes"),
    "replace FineTuneJobs": ("update finetunejobs.finetune.dev", "no"),
    "create FineTuneJobs": ("create finetunejobs.finetune.dev", "no"),
    "create Jobs": ("create jobs.batch", "yes"),
    "change Jobs": ("patch jobs.batch", "no"),
    "ask whose token it is": ("create tokenreviews.authentication.k8s.io", "yes"),
    "read its certificate": (f"get {CERTIFICATE}", "yes"),
    "read another Secret": ("get secrets/another", "no"),
    "list Secrets": ("list secrets", "no"),
    "create Secrets": ("create secrets", "no"),
    "renew its Lease": (f"update {LEASE}", "yes"),
    "take another Lease": ("update leases/another", "no"),
    "create Leases": ("create leases", "no"),
    "create pods": ("create pods", "no"),
    "delete pods": ("delete pods", "no"),
    "enter pods": ("create pods --subresource=exec", "no"),
    "make roles": ("create clusterroles.rbac.authorization.k8s.io", "no"),
}


def test_the_api_server_agrees_what_the_operator_may_do(release: ControlPlane) -> None:
    account = f"--as=system:serviceaccount:{NAMESPACE}:{RELEASE}"
    answers = {
        sentence: kubectl(release, *IN_NAMESPACE, "auth", "can-i", *question.split(), account).strip()
        for sentence, (question, _) in MAY.items()
    }
    assert answers == {sentence: answer for sentence, (_, answer) in MAY.items()}


def test_an_editor_of_a_namespace_may_create_finetunejobs(release: ControlPlane) -> None:
    kubectl(release, "create", "rolebinding", "editor", "--clusterrole=edit", "--user=ada", "-n", "default")
    question = ("auth", "can-i", "create", "finetunejobs.finetune.dev", "-n", "default", "--as=ada")
    assert kubectl(release, *question).strip() == "yes"
