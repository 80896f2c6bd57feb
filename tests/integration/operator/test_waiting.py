"""Why does it not run? The answer stands in status, with the next action, while the cause lasts and no longer."""

from __future__ import annotations

from pathlib import Path

from tests.integration.operator.api_client import CORE, MERGE, Api, wait_until
from tests.integration.operator.kubelet import PREPARED, Kubelet, job_is_there
from tests.integration.operator.nodes import StandInNodes, tolerations
from tests.integration.operator.sidecar_injector import sidecar_injector
from tests.integration.operator.steps import apply_job, reach_preparing


def test_a_missing_secret_is_named_with_the_field_that_names_it(api: Api, kubelet: Kubelet) -> None:
    apply_job(api)
    pod = kubelet.pod_of("bot-prepare-1")
    kubelet.assign(pod, "node-1")
    kubelet.complain(
        pod,
        "FailedMount",
        'MountVolume.SetUp failed for volume "credentials-0" : secret "s3-credentials" not found',
    )

    status = api.wait_for_status("bot", reason="MissingReference")

    assert status["phase"] == "Pending"
    assert status["message"] == (
        f"Secret 's3-credentials' not found in namespace '{api.namespace}'. "
        "Create it or correct spec.output.store.credentialsSecretRef."
    )
    api.wait_for_event("bot", "Warning", "MissingReference")

    kubelet.start("bot-prepare-1")
    api.wait_for_status("bot", phase="Preparing", reason="Preparing")


def test_a_missing_data_config_map_is_named(api: Api, kubelet: Kubelet) -> None:
    apply_job(api, dataset__train=[{"source": "configMap://rows/train.jsonl"}])
    pod = kubelet.pod_of("bot-prepare-1")
    kubelet.assign(pod, "node-1")
    kubelet.complain(
        pod, "FailedMount", 'MountVolume.SetUp failed for volume "data-1" : configmap "rows" not found'
    )

    status = api.wait_for_status("bot", reason="MissingReference")

    assert "ConfigMap 'rows' not found" in status["message"]
    assert "spec.dataset.train[0].source" in status["message"]


def test_a_pod_that_the_namespaces_quota_refuses_is_explained(api: Api) -> None:
    api.create(CORE, "resourcequotas", {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}})
    apply_job(api)
    job_is_there(api, "bot-prepare-1")

    status = api.wait_for_status("bot", 15, reason="QuotaExceeded")

    assert status["phase"] == "Pending"
    assert "exceeded quota: none" in status["message"]


def test_a_job_that_the_namespaces_quota_refuses_is_explained_and_goes_on_when_it_may(
    api: Api, kubelet: Kubelet
) -> None:
    hard = {"count/jobs.batch": "0"}
    api.create(CORE, "resourcequotas", {"metadata": {"name": "none"}, "spec": {"hard": hard}})
    apply_job(api)
    status = api.wait_for_status("bot", reason="QuotaExceeded")
    assert status["phase"] == "Pending"

    api.delete(CORE, "resourcequotas", "none")

    kubelet.start("bot-prepare-1")
    api.wait_for_status("bot", phase="Preparing")


def test_an_image_that_cannot_be_pulled_is_explained(api: Api, kubelet: Kubelet) -> None:
    apply_job(api)
    kubelet.refuse_image("bot-prepare-1", "registry.example/x:1")

    status = api.wait_for_status("bot", reason="ImagePull")

    assert "registry.example/x:1" in status["message"]


def test_the_pods_are_admitted_where_the_restricted_standard_is_enforced(api: Api, kubelet: Kubelet) -> None:
    labels = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    api.send("PATCH", f"api/v1/namespaces/{api.namespace}", labels, "application/merge-patch+json")

    apply_job(api, dataset__train=[{"source": "configMap://rows/train.jsonl"}])

    assert kubelet.pod_of("bot-prepare-1")["spec"]["securityContext"]["runAsNonRoot"] is True


def test_a_pod_that_the_pod_security_standard_denies_is_explained_and_goes_on_when_it_may(
    api: Api, kubelet: Kubelet, tmp_path: Path
) -> None:
    labels = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    api.send("PATCH", f"api/v1/namespaces/{api.namespace}", labels, MERGE)
    with sidecar_injector(api, tmp_path):
        apply_job(api)
        status = api.wait_for_status("bot", 10, reason="Forbidden")
        assert status["phase"] == "Pending"
        assert "violates PodSecurity" in status["message"]
        assert "NET_ADMIN" in status["message"]

    # The Job controller tries again with a back-off of its own.
    wait_until(lambda: kubelet.list_pods("bot-prepare-1"), 60, lambda: "pod")
    reach_preparing(api, kubelet)


def test_a_missing_priority_class_is_named_with_its_field_and_goes_on_when_it_is_made(
    api: Api, kubelet: Kubelet
) -> None:
    name = f"batch-{api.namespace}"
    apply_job(api, resources__priorityClassName=name)
    kubelet.succeed("bot-prepare-1", PREPARED)

    status = api.wait_for_status("bot", 10, reason="MissingReference")
    assert name in status["message"]
    assert "spec.resources.priorityClassName" in status["message"]

    api.send("POST", "apis/scheduling.k8s.io/v1/priorityclasses", {"metadata": {"name": name}, "value": 1})
    wait_until(lambda: kubelet.list_pods("bot-train-1"), 60, lambda: "pod")
    kubelet.start("bot-train-1")
    api.wait_for_status("bot", phase="Training")


def test_a_missing_claim_is_named_with_the_field_that_names_it(api: Api, kubelet: Kubelet) -> None:
    """The real scheduler says so: it is what looks for claims."""
    apply_job(api, model__source="pvc://weights/base")
    kubelet.pod_of("bot-prepare-1")

    status = api.wait_for_status("bot", 10, reason="MissingReference")

    assert "PersistentVolumeClaim 'weights' not found" in status["message"]
    assert "spec.model.source" in status["message"]


def test_what_no_node_has_is_told_in_the_schedulers_own_words(
    api: Api, kubelet: Kubelet, nodes: StandInNodes
) -> None:
    node = f"cpu-{api.namespace}"
    nodes.add(node, api.namespace)
    apply_job(
        api,
        resources__gpuResourceName="example.com/npu",
        resources__tolerations=tolerations(api.namespace),
        resources__nodeSelector={"kubernetes.io/hostname": node},
        failurePolicy__pendingDeadlineSeconds=3600,
    )
    kubelet.succeed("bot-prepare-1", PREPARED)
    kubelet.pod_of("bot-train-1")

    status = api.wait_for_status("bot", 10, reason="Unschedulable")

    assert "Insufficient example.com/npu" in status["message"]
    assert "spec.resources" in status["message"]
    assert status["waitingSince"]
    nodes.remove(node)


def test_quota_that_is_used_up_by_others_is_waited_for(api: Api, kubelet: Kubelet) -> None:
    hard = {"requests.memory": "6Gi"}
    api.create(CORE, "resourcequotas", {"metadata": {"name": "team"}, "spec": {"hard": hard}})
    wait_until(lambda: (api.read(CORE, "resourcequotas", "team") or {}).get("status", {}).get("hard"))
    apply_job(api, "first")
    reach_preparing(api, kubelet, "first")
    apply_job(api, "second")

    status = api.wait_for_status("second", 10, reason="QuotaExceeded")
    assert "exceeded quota: team" in status["message"]
    assert "requests.memory" in status["message"]

    kubelet.fail("first-prepare-1", 11)
    wait_until(lambda: kubelet.list_pods("second-prepare-1"), 60, lambda: "pod of the second")
    reach_preparing(api, kubelet, "second")


def test_an_image_that_never_comes_ends_the_job_at_its_deadline(api: Api, kubelet: Kubelet) -> None:
    apply_job(api, failurePolicy__pendingDeadlineSeconds=8)
    kubelet.refuse_image("bot-prepare-1", "registry.example/x:1")
    api.wait_for_status("bot", 10, reason="ImagePull")

    status = api.wait_for_status("bot", 30, phase="Failed", reason="PendingDeadlineExceeded")

    assert "registry.example/x:1" in status["message"]
