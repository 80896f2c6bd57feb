"""Every pod, ours and the jobs', is accepted without a warning where the restricted Pod Security Standard is enforced."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from devcluster import ControlPlane
from finetune_api.names import Stage
from finetune_operator.job_resource import FineTuneJob, parse_job
from finetune_operator.manifests import desired_objects
from finetune_operator.settings import PodSettings, load_settings
from tests.builders.jobs import make_manifest
from tests.builders.largest_job import LARGEST_SPEC
from tests.integration.chart.conftest import Helm, pick
from tests.integration.chart.hook import environment_of

LEVELS = ("enforce", "warn", "audit")
RESTRICTED_NAMESPACE = "restricted"


@pytest.fixture(scope="module")
def restricted(control_plane: ControlPlane, crd_kubeconfig: Path) -> ControlPlane:
    """A namespace that enforces the standard, with what the largest job refers to at admission."""
    labels = {f"pod-security.kubernetes.io/{level}": "restricted" for level in LEVELS}
    objects: list[dict[str, Any]] = [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": RESTRICTED_NAMESPACE, "labels": labels},
        },
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "trainer", "namespace": RESTRICTED_NAMESPACE},
        },
        {
            "apiVersion": "node.k8s.io/v1",
            "kind": "RuntimeClass",
            "metadata": {"name": "nvidia"},
            "handler": "nvidia",
        },
        {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": "restricted-urgent"},
            "value": 1000,
        },
    ]
    result = send(control_plane, "apply", {"apiVersion": "v1", "kind": "List", "items": objects})
    assert result.returncode == 0, result.stderr
    return control_plane


def send(
    cluster: ControlPlane, verb: str, manifest: dict[str, Any], *more: str
) -> subprocess.CompletedProcess[str]:
    """Create an object with strict validation; kubectl prints the API server's warnings as errors."""
    return subprocess.run(
        [
            *(str(cluster.kubectl), "--kubeconfig", str(cluster.kubeconfig), verb, "--validate=strict"),
            *("--warnings-as-errors", *more, "-f", "-"),
        ],
        input=json.dumps(manifest),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def assert_accepted(cluster: ControlPlane, *manifests: dict[str, Any]) -> None:
    listed = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
    result = send(cluster, "create", listed, "--dry-run=server")
    assert (result.returncode, result.stderr) == (0, ""), result.stderr


def pod_of(manifest: dict[str, Any]) -> dict[str, Any]:
    """A pod as the manifest's controller would make it: only pods are refused, the rest is warned about."""
    template = manifest["spec"]["template"]
    metadata = {**template["metadata"], "name": "pod", "namespace": RESTRICTED_NAMESPACE}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def make_job(**changes: Any) -> FineTuneJob:
    body = make_manifest("bot", RESTRICTED_NAMESPACE, **changes)
    body["metadata"] |= {"uid": "0123456789abcdef", "resourceVersion": "7", "generation": 1}
    job = parse_job(body)
    assert job.spec is not None, job.problem
    return job


@pytest.fixture(scope="module")
def settings(helm: Helm) -> PodSettings:
    """The pods' settings as the chart's defaults make them, with a service account of the administrator's."""
    objects = helm.objects("--set", "trainer.serviceAccountName=trainer")
    container = pick(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    return load_settings(environment_of(container, "operator")).pods


JOBS: dict[str, dict[str, Any]] = {
    "the smallest job": {},
    "the largest job": {**LARGEST_SPEC, "resources__priorityClassName": "restricted-urgent"},
}


@pytest.mark.parametrize("changes", JOBS.values(), ids=JOBS.keys())
@pytest.mark.parametrize("stage", list(Stage))
def test_the_jobs_objects_are_accepted_without_a_warning(
    restricted: ControlPlane, settings: PodSettings, stage: Stage, changes: dict[str, Any]
) -> None:
    objects = desired_objects(make_job(**changes), stage, 1, settings, active_seconds_left=60)
    assert_accepted(
        restricted, *filter(None, (objects.config_map, objects.service, objects.job, pod_of(objects.job)))
    )


@pytest.mark.parametrize("kind", ["Deployment", "Job"], ids=["the operator", "the pre-delete hook"])
def test_the_charts_own_pods_are_accepted_without_a_warning(
    restricted: ControlPlane, helm: Helm, kind: str
) -> None:
    pod = pod_of(pick(helm.objects(), kind))
    # The account is created with the release, which this namespace does not have.
    assert_accepted(restricted, {**pod, "spec": {**pod["spec"], "serviceAccountName": "trainer"}})


def test_the_namespace_refuses_what_the_standard_forbids(
    restricted: ControlPlane, settings: PodSettings
) -> None:
    pod = pod_of(desired_objects(make_job(), Stage.TRAIN, 1, settings).job)
    result = send(
        restricted, "create", {**pod, "spec": {**pod["spec"], "hostNetwork": True}}, "--dry-run=server"
    )
    assert result.returncode != 0
    assert "violates PodSecurity" in result.stderr
