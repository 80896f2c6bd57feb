"""What an attempt asks the cluster for: the objects as they are sent."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api import names
from finetune_api.job_file import JobFile
from finetune_api.names import Stage
from finetune_api.status import FineTuneJobStatus, Provenance
from finetune_operator.job_resource import FineTuneJob
from finetune_operator.kubernetes_objects import JsonObject
from finetune_operator.manifests import desired_objects
from finetune_operator.manifests.ca_bundle import build_ca_bundle
from tests.unit.operator.builders import UID, make_job, make_pod_settings


def job_manifest(stage: Stage = Stage.TRAIN, job: FineTuneJob | None = None, **settings: Any) -> JsonObject:
    return desired_objects(job or make_job(), stage, 2, make_pod_settings(**settings)).job


def pod_spec(stage: Stage = Stage.TRAIN, job: FineTuneJob | None = None, **settings: Any) -> JsonObject:
    spec: JsonObject = job_manifest(stage, job, **settings)["spec"]["template"]["spec"]
    return spec


def container(stage: Stage = Stage.TRAIN, job: FineTuneJob | None = None) -> JsonObject:
    only: JsonObject
    (only,) = pod_spec(stage, job)["containers"]
    return only


def mounts(stage: Stage, job: FineTuneJob | None = None) -> dict[str, JsonObject]:
    """Volume sources by the path where they are mounted."""
    sources = {volume["name"]: volume for volume in pod_spec(stage, job)["volumes"]}
    return {
        mount["mountPath"]: {k: v for k, v in sources[mount["name"]].items() if k != "name"}
        for mount in container(stage, job)["volumeMounts"]
    }


def test_an_attempt_is_one_pod_and_one_try() -> None:
    spec = job_manifest()["spec"]

    assert (spec["completions"], spec["parallelism"], spec["backoffLimit"]) == (1, 1, 0)
    assert spec["podReplacementPolicy"] == "Failed"
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert "ttlSecondsAfterFinished" not in spec


def test_children_belong_to_the_job_and_say_which_attempt_they_are() -> None:
    objects = desired_objects(make_job(), Stage.TRAIN, 2, make_pod_settings())

    for manifest in (objects.job, objects.config_map):
        metadata = manifest["metadata"]
        assert (metadata["name"], metadata["namespace"]) == ("bot-train-2", "ml")
        (owner,) = metadata["ownerReferences"]
        assert (owner["kind"], owner["uid"], owner["controller"], owner["blockOwnerDeletion"]) == (
            "FineTuneJob",
            UID,
            True,
            True,
        )
        assert metadata["labels"] == {
            "app.kubernetes.io/name": "finetune-job",
            "app.kubernetes.io/instance": "bot",
            "app.kubernetes.io/component": "train",
            "app.kubernetes.io/part-of": "finetune-operator",
            "app.kubernetes.io/managed-by": "finetune-operator",
            "finetune.dev/job": "bot",
            "finetune.dev/job-uid": UID,
            "finetune.dev/stage": "train",
            "finetune.dev/attempt": "2",
        }
    assert objects.job["spec"]["template"]["metadata"]["labels"] == objects.job["metadata"]["labels"]


@pytest.mark.parametrize("stage", list(Stage))
def test_every_pod_keeps_to_the_restricted_standard(stage: Stage) -> None:
    spec, only = pod_spec(stage), container(stage)

    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 65532
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert only["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()


def test_the_job_file_is_the_resolved_job() -> None:
    job = make_job(training__maxSteps=7)

    config_map = desired_objects(job, Stage.PREPARE, 1, make_pod_settings()).config_map

    assert config_map["immutable"] is True
    job_file = JobFile.model_validate_json(config_map["data"][names.JOB_FILE_NAME])
    assert job_file.spec == job.spec
    assert (job_file.stage, job_file.attempt, job_file.trainer_image) == (
        Stage.PREPARE,
        1,
        "trainer-prepare:2",
    )


def test_stages_run_their_own_image_and_command() -> None:
    prepare, train, export = (container(stage) for stage in Stage)

    assert [each["image"] for each in (prepare, train, export)] == [
        "trainer-prepare:2",
        "trainer:2",
        "trainer:2",
    ]
    assert prepare["args"] == ["prepare", "--job", "/etc/finetune/job/job.json"]


def test_a_run_stays_with_the_image_it_began_to_train_with() -> None:
    status = FineTuneJobStatus(provenance=Provenance(trainer_image="trainer:1"))

    assert container(Stage.TRAIN, make_job(status=status))["image"] == "trainer:1"


def test_the_working_folder_is_bounded_and_shared_memory_is_for_training_only() -> None:
    train, prepare = mounts(Stage.TRAIN), mounts(Stage.PREPARE)

    assert train["/work"] == {"emptyDir": {"sizeLimit": "50Gi"}}
    assert train["/dev/shm"] == {"emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}}
    assert "/dev/shm" not in prepare


def test_credentials_are_mounted_never_put_into_the_environment() -> None:
    source = mounts(Stage.TRAIN)["/etc/finetune/credentials/s3-credentials"]

    assert source == {"secret": {"secretName": "s3-credentials", "defaultMode": 0o440}}
    assert "optional" not in source["secret"]
    assert all("valueFrom" not in variable for variable in container()["env"])
    assert "envFrom" not in container()


def test_each_stage_mounts_the_credentials_that_it_needs_once() -> None:
    train_source = {"source": "s3://data/a", "store": {"credentialsSecretRef": {"name": "data-keys"}}}
    job = make_job(
        model__store={"credentialsSecretRef": {"name": "s3-credentials"}},
        dataset__train=[train_source, {**train_source, "source": "s3://data/b"}],
    )

    def secrets(stage: Stage) -> list[str]:
        return [v["secret"]["secretName"] for v in pod_spec(stage, job)["volumes"] if "secret" in v]

    assert secrets(Stage.PREPARE) == ["s3-credentials", "data-keys"]
    assert secrets(Stage.TRAIN) == ["s3-credentials"]


def test_data_config_maps_are_mounted_for_preparing_only() -> None:
    job = make_job(dataset__train=[{"source": "configMap://rows/train.jsonl"}])

    assert mounts(Stage.PREPARE, job)["/etc/finetune/data/rows"] == {"configMap": {"name": "rows"}}
    assert "/etc/finetune/data/rows" not in mounts(Stage.TRAIN, job)


def test_the_pod_gets_a_token_for_the_progress_server_and_nothing_else() -> None:
    (source,) = mounts(Stage.TRAIN)["/etc/finetune/progress"]["projected"]["sources"]

    assert source["serviceAccountToken"]["audience"] == "finetune-operator"
    assert source["serviceAccountToken"]["path"] == "token"
    environment = {variable["name"]: variable["value"] for variable in container()["env"]}
    assert environment["FINETUNE_PROGRESS_URL"] == (
        "https://finetune-operator.finetune-system.svc:8443/v1alpha1/progress"
    )
    assert mounts(Stage.TRAIN)["/etc/finetune/progress-ca"]["configMap"]["optional"] is True


def test_memory_is_request_and_limit_and_cpu_is_never_throttled() -> None:
    resources = container(Stage.PREPARE)["resources"]

    assert resources == {
        "requests": {"cpu": "1", "memory": "4Gi", "ephemeral-storage": "20Gi"},
        "limits": {"memory": "4Gi"},
    }


def test_gpus_are_asked_for_by_the_train_stage_alone() -> None:
    job = make_job(parallelism__gpusPerNode=2, resources__gpuResourceName="example.com/gpu")

    assert container(Stage.TRAIN, job)["resources"]["limits"]["example.com/gpu"] == "2"
    assert container(Stage.EXPORT, job)["resources"]["limits"] == {"memory": "8Gi"}


def test_without_gpus_none_is_asked_for() -> None:
    limits = container(Stage.TRAIN, make_job(parallelism__gpusPerNode=0))["resources"]["limits"]

    assert limits == {"memory": "16Gi"}


def test_placement_is_the_train_pods() -> None:
    job = make_job(
        resources__nodeSelector={"pool": "gpu"},
        resources__tolerations=[{"key": "gpu", "operator": "Exists", "tolerationSeconds": 5}],
        resources__priorityClassName="high",
    )

    train, prepare = pod_spec(Stage.TRAIN, job), pod_spec(Stage.PREPARE, job)

    assert train["nodeSelector"] == {"pool": "gpu"}
    assert train["tolerations"] == [{"key": "gpu", "operator": "Exists", "tolerationSeconds": 5}]
    assert train["priorityClassName"] == "high"
    assert not {"nodeSelector", "tolerations", "priorityClassName"} & prepare.keys()


def test_only_a_train_pod_has_time_to_save() -> None:
    assert pod_spec(Stage.TRAIN)["terminationGracePeriodSeconds"] == 120
    assert pod_spec(Stage.EXPORT)["terminationGracePeriodSeconds"] == 30


def test_the_administrators_service_account_and_pull_secrets_are_used() -> None:
    spec = pod_spec(service_account="trainer", image_pull_secrets=("registry",))

    assert spec["serviceAccountName"] == "trainer"
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert not {"serviceAccountName", "imagePullSecrets"} & pod_spec().keys()


def test_the_ca_bundle_stands_where_the_pods_look_for_it() -> None:
    assert build_ca_bundle("ca", "ml", "PEM")["data"] == {"ca.crt": "PEM"}
