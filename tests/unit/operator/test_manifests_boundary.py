"""What a user can make of a pod: everything that a rendered object may contain is listed here.

A free pod template is how users of other operators became root on nodes; so the test knows no list of dangers, but one
of what is allowed, and applies it to the largest spec there is.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

from finetune_api.names import Stage
from finetune_operator.hub_access import CABundle, HubAccess
from finetune_operator.job_resource import parse_job
from finetune_operator.kubernetes_objects import JsonObject
from finetune_operator.manifests import DesiredObjects, desired_objects
from tests.builders.jobs import make_manifest
from tests.builders.largest_job import LARGEST_SPEC
from tests.unit.operator.builders import UID, make_pod_settings

METADATA = {
    "labels": {"team": "a", "finetune.dev/job-uid": "another", "finetune.dev/stage": "export"},
    "annotations": {"note": "b", "finetune.dev/job-file": "{}", "finetune.dev/spec-digest": "forged"},
}

POD_FIELDS = {
    *(
        "restartPolicy",
        "terminationGracePeriodSeconds",
        "activeDeadlineSeconds",
        "automountServiceAccountToken",
    ),
    *("enableServiceLinks", "securityContext", "serviceAccountName", "imagePullSecrets", "subdomain"),
    *(
        "nodeSelector",
        "tolerations",
        "priorityClassName",
        "runtimeClassName",
        "affinity",
        "containers",
        "volumes",
    ),
}
CONTAINER_FIELDS = {
    *("name", "image", "imagePullPolicy", "args", "env", "resources", "terminationMessagePath"),
    *("terminationMessagePolicy", "securityContext", "volumeMounts"),
}
VOLUME_KINDS = {"configMap", "downwardAPI", "emptyDir", "persistentVolumeClaim", "projected", "secret"}
JOB_FIELDS = {
    *("completions", "parallelism", "completionMode", "backoffLimit", "podReplacementPolicy", "suspend"),
    *("activeDeadlineSeconds", "ttlSecondsAfterFinished", "template"),
}


@pytest.fixture(params=list(Stage), ids=list(Stage))
def objects(request: pytest.FixtureRequest) -> DesiredObjects:
    """Everything of one attempt of the largest spec, where the administrator lets a label and an annotation pass."""
    return build(request.param)


def build(stage: Stage, **changes: Any) -> DesiredObjects:
    body = make_manifest("bot", "ml", **{**LARGEST_SPEC, **changes})
    body["metadata"] |= {**METADATA, "uid": UID, "resourceVersion": "7", "generation": 1}
    job = parse_job(body)
    assert job.spec is not None, job.problem
    settings = make_pod_settings(
        pass_through_labels=("team",),
        pass_through_annotations=("note",),
        service_account="trainer",
        hub=HubAccess({"HTTPS_PROXY": "http://proxy:3128"}, CABundle("authorities", "ca.crt")),
    )
    return desired_objects(job, stage, 1, settings, memory_backoff=1, active_seconds_left=60)


def pod_spec(objects: DesiredObjects) -> JsonObject:
    spec: JsonObject = objects.job["spec"]["template"]["spec"]
    return spec


def test_no_field_of_the_pod_is_the_users_to_add(objects: DesiredObjects) -> None:
    pod = pod_spec(objects)
    (container,) = pod["containers"]

    assert pod.keys() <= POD_FIELDS
    assert container.keys() <= CONTAINER_FIELDS
    assert objects.job["spec"].keys() <= JOB_FIELDS
    assert objects.job["spec"]["template"].keys() == {"metadata", "spec"}


def test_volumes_are_of_harmless_kinds_and_only_our_own_can_be_written(objects: DesiredObjects) -> None:
    pod = pod_spec(objects)
    kinds = {volume["name"]: next(key for key in volume if key != "name") for volume in pod["volumes"]}

    assert set(kinds.values()) <= VOLUME_KINDS
    for mount in pod["containers"][0]["volumeMounts"]:
        assert mount.keys() <= {"name", "mountPath", "readOnly"}
        assert mount.get("readOnly", False) is (kinds[mount["name"]] != "emptyDir")
        assert mount["mountPath"] in {"/work", "/dev/shm"} or mount["mountPath"].startswith("/etc/finetune/")


def test_two_volumes_never_hide_each_other(objects: DesiredObjects) -> None:
    paths = [mount["mountPath"] for mount in pod_spec(objects)["containers"][0]["volumeMounts"]]

    for one, other in itertools.permutations(paths, 2):
        assert not f"{other}/".startswith(f"{one}/")


def test_the_only_token_is_the_progress_servers(objects: DesiredObjects) -> None:
    pod = pod_spec(objects)
    projected = [volume["projected"]["sources"] for volume in pod["volumes"] if "projected" in volume]
    audiences = [source["serviceAccountToken"]["audience"] for (source,) in projected]

    assert pod["automountServiceAccountToken"] is False
    assert audiences in (["finetune-operator"], [])
    # The administrator's; there is no field by which a user could name one.
    assert pod["serviceAccountName"] == "trainer"


def test_values_come_from_nowhere_but_the_spec(objects: DesiredObjects) -> None:
    (container,) = pod_spec(objects)["containers"]

    assert all(variable.keys() == {"name", "value"} for variable in container["env"])
    assert "valueFrom" not in json.dumps([objects.job, objects.config_map, objects.service])


def test_secrets_are_named_and_never_copied(objects: DesiredObjects) -> None:
    """A Secret can only be mounted as a file, or be used by the kubelet to pull the image."""
    for path, key, value in walk(objects.job):
        if "secret" in key.lower():
            assert key in {"secret", "secretName", "imagePullSecrets"}, path
        if key == "secret":
            assert value.keys() == {"secretName", "defaultMode"}


def test_the_security_context_is_ours(objects: DesiredObjects) -> None:
    pod = pod_spec(objects)

    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "fsGroup": 65532,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert pod["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }


def test_everything_stays_in_the_jobs_namespace(objects: DesiredObjects) -> None:
    for manifest in filter(None, (objects.config_map, objects.service, objects.job)):
        assert manifest["metadata"]["namespace"] == "ml"
        assert [path for path, key, _ in walk(manifest) if key in {"namespace", "namespaces"}] == [
            "metadata.namespace"
        ]


def test_labels_and_annotations_pass_only_by_the_administrators_list(objects: DesiredObjects) -> None:
    template = objects.job["spec"]["template"]["metadata"]

    for metadata in (objects.job["metadata"], template):
        assert metadata["labels"]["team"] == "a"
        assert metadata["annotations"]["note"] == "b"
        assert metadata["labels"]["finetune.dev/job-uid"] == UID
        assert metadata["labels"]["finetune.dev/stage"] == metadata["labels"]["app.kubernetes.io/component"]
    assert objects.job["metadata"]["annotations"]["finetune.dev/spec-digest"] != "forged"
    assert template["annotations"].get("finetune.dev/job-file") != "{}"


def test_without_a_list_nothing_passes() -> None:
    body = make_manifest("bot", "ml")
    body["metadata"] |= {**METADATA, "uid": UID, "resourceVersion": "7", "generation": 1}

    job = desired_objects(parse_job(body), Stage.TRAIN, 1, make_pod_settings()).job

    assert "team" not in job["metadata"]["labels"]
    assert job["metadata"]["annotations"].keys() == {"finetune.dev/spec-digest"}
    assert "annotations" not in job["spec"]["template"]["metadata"]


ENVIRONMENTS = ["LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONSTARTUP", "PATH", "BASH_ENV", "HOME"]
ENVIRONMENTS += ["AWS_SECRET_ACCESS_KEY", "FINETUNE_PROGRESS_URL", "JOB_COMPLETION_INDEX", "NCCL_NET_PLUGIN"]


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_variable_off_the_list_never_reaches_a_pod(name: str) -> None:
    body = make_manifest("bot", "ml", env=[{"name": name, "value": "x"}])
    body["metadata"] |= {"uid": UID, "resourceVersion": "7", "generation": 1}

    job = parse_job(body)

    assert job.spec is None
    assert job.problem is not None
    assert "env" in job.problem


def walk(value: Any, path: str = "") -> Iterator[tuple[str, str, Any]]:
    """Path, key and value of every entry of every map."""
    if isinstance(value, dict):
        for key, child in value.items():
            here = f"{path}.{key}" if path else key
            yield here, key, child
            yield from walk(child, here)
    if isinstance(value, list):
        for child in value:
            yield from walk(child, f"{path}[]")
