"""Why does it not run? The answer stands in status, with the next action, while the cause lasts and no longer."""

from __future__ import annotations

from tests.integration.operator.api_client import CORE, Api
from tests.integration.operator.kubelet import Kubelet, job_is_there
from tests.integration.operator.test_lifecycle import apply_job


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
    pod = kubelet.pod_of("bot-prepare-1")
    waiting = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "registry.example/x:1"'}
    container = {
        "name": "trainer",
        "state": {"waiting": waiting},
        "ready": False,
        "restartCount": 0,
        "image": "",
        "imageID": "",
    }
    api.patch_status(
        CORE, "pods", pod["metadata"]["name"], {"phase": "Pending", "containerStatuses": [container]}
    )

    status = api.wait_for_status("bot", reason="ImagePull")

    assert "registry.example/x:1" in status["message"]


def test_the_pods_are_admitted_where_the_restricted_standard_is_enforced(api: Api, kubelet: Kubelet) -> None:
    labels = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    api.send("PATCH", f"api/v1/namespaces/{api.namespace}", labels, "application/merge-patch+json")

    apply_job(api, dataset__train=[{"source": "configMap://rows/train.jsonl"}])

    assert kubelet.pod_of("bot-prepare-1")["spec"]["securityContext"]["runAsNonRoot"] is True
