"""What an attempt asks the cluster for: the objects as they are sent."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from finetune_api import names
from finetune_api.job_file import JobFile
from finetune_api.names import STAGES, Stage
from finetune_api.spec import EnvironmentVariable
from finetune_operator.job_resource import FineTuneJob
from finetune_operator.kubernetes_objects import JsonObject
from finetune_operator.manifests import desired_objects
from finetune_operator.manifests.ca_bundle import build_ca_bundle
from finetune_operator.spec_digest import spec_digest
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
        assert manifest is not None
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


def job_file(job: FineTuneJob, stage: Stage = Stage.TRAIN, **more: Any) -> dict[str, Any]:
    """job.json as it is written."""
    config_map = desired_objects(job, stage, 1, make_pod_settings(), **more).config_map
    assert config_map is not None
    assert config_map["immutable"] is True
    content: dict[str, Any] = json.loads(config_map["data"][names.JOB_FILE_NAME])
    return content


def test_the_job_file_is_the_resolved_job() -> None:
    job = make_job(training__maxSteps=7)

    parsed = JobFile.model_validate(job_file(job, Stage.PREPARE))

    assert parsed.spec == job.spec
    assert (parsed.stage, parsed.attempt, parsed.trainer_image) == (Stage.PREPARE, 1, "trainer-prepare:2")
    assert (parsed.name, parsed.namespace, parsed.uid) == ("bot", "ml", UID)


def test_the_job_file_holds_nothing_that_an_earlier_trainer_would_not_know() -> None:
    content = job_file(make_job(training__globalBatchSize=16, training__maxSteps=7))

    assert content["schemaVersion"] == 1
    assert "memoryBackoff" not in content
    assert content["spec"]["training"] == {"maxSteps": 7}
    assert "failurePolicy" not in content["spec"]
    assert content["spec"]["output"]["store"] == {"credentialsSecretRef": {"name": "s3-credentials"}}


def test_empty_fields_of_rows_reach_the_pod() -> None:
    row = {"input_text": "a", "target_text": "b", "note": None}

    content = job_file(make_job(dataset__train=[{"inline": [row]}]))

    assert content["spec"]["dataset"]["train"] == [{"inline": [row]}]


def test_how_often_memory_ran_out_reaches_the_trainer() -> None:
    assert job_file(make_job(), memory_backoff=2)["memoryBackoff"] == 2


def test_a_job_says_from_which_spec_it_was_made() -> None:
    job, other = make_job(), make_job(resources__memory="1Gi")
    assert job.spec is not None

    digest = job_manifest(job=job)["metadata"]["annotations"]["finetune.dev/spec-digest"]

    assert digest == spec_digest(job.spec)
    assert digest != job_manifest(job=other)["metadata"]["annotations"]["finetune.dev/spec-digest"]


def test_stages_run_their_own_image_and_command() -> None:
    prepare, train, export = (container(stage) for stage in STAGES)

    assert [each["image"] for each in (prepare, train, export)] == [
        "trainer-prepare:2",
        "trainer:2",
        "trainer:2",
    ]
    assert prepare["args"] == ["prepare", "--job", "/etc/finetune/job/job.json"]


IMAGES = {
    "the installation's trainer": (Stage.TRAIN, None, None, "trainer:2"),
    "the user's image trains": (Stage.TRAIN, "mine:1", None, "mine:1"),
    "the user's image exports": (Stage.EXPORT, "mine:1", None, "mine:1"),
    "the user's image does not prepare": (Stage.PREPARE, "mine:1", None, "trainer-prepare:2"),
    "the user's image does not clean up": (Stage.CLEANUP, "mine:1", None, "trainer-prepare:2"),
    "what earlier attempts ran with": (Stage.TRAIN, "mine:1", "mine:1@sha256:0", "mine:1@sha256:0"),
    "what earlier attempts prepared with": (Stage.PREPARE, None, "prepare@sha256:1", "prepare@sha256:1"),
}


@pytest.mark.parametrize(("stage", "of_spec", "pinned", "image"), IMAGES.values(), ids=IMAGES.keys())
def test_images(stage: Stage, of_spec: str | None, pinned: str | None, image: str) -> None:
    job = make_job(image=of_spec or ...)

    manifest = desired_objects(job, stage, 1, make_pod_settings(), image=pinned).job

    assert manifest["spec"]["template"]["spec"]["containers"][0]["image"] == image


DEADLINES = {
    "no deadline": (None, None),
    "whole seconds": (60.0, 60),
    "part of a second left": (0.2, 1),
    "nothing left": (-3.0, 1),
    "rounded up": (59.1, 60),
}


@pytest.mark.parametrize(("left", "shown"), DEADLINES.values(), ids=DEADLINES.keys())
def test_what_is_left_of_the_running_time_bounds_the_pod(left: float | None, shown: int | None) -> None:
    manifest = desired_objects(make_job(), Stage.TRAIN, 1, make_pod_settings(), active_seconds_left=left).job

    assert manifest["spec"]["template"]["spec"].get("activeDeadlineSeconds") == shown
    # On the Job it would count time in a queue.
    assert "activeDeadlineSeconds" not in manifest["spec"]


def test_the_working_folder_is_bounded_and_shared_memory_is_for_training_only() -> None:
    train, prepare = mounts(Stage.TRAIN), mounts(Stage.PREPARE)

    assert train["/work"] == {"emptyDir": {"sizeLimit": "50Gi"}}
    assert train["/dev/shm"] == {"emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}}
    assert "/dev/shm" not in prepare


@pytest.mark.parametrize("stage", STAGES)
def test_the_users_variables_are_set_and_never_override_ours(stage: Stage) -> None:
    mine = [{"name": "NCCL_DEBUG", "value": "INFO"}, {"name": "HTTPS_PROXY", "value": "http://proxy:3128"}]
    job = make_job(env=mine)
    assert job.spec is not None
    # Ours are not on the allow-list; one that came in all the same must not win.
    forged = EnvironmentVariable.model_construct(name="FINETUNE_PROGRESS_URL", value="https://elsewhere")
    job = replace(job, spec=job.spec.model_copy(update={"env": [*(job.spec.env or ()), forged]}))

    shown = [(each["name"], each["value"]) for each in container(stage, job)["env"]]
    environment = dict(shown)

    assert len(shown) == len(environment)
    assert (environment["NCCL_DEBUG"], environment["HTTPS_PROXY"]) == ("INFO", "http://proxy:3128")
    assert environment["FINETUNE_PROGRESS_URL"].startswith("https://finetune-operator.finetune-system.svc")


def test_a_hugging_face_trainer_of_the_users_own_reports_progress() -> None:
    environment = {each["name"]: each["value"] for each in container(Stage.TRAIN)["env"]}

    assert environment["KUBEFLOW_TRAINER_SERVER_URL"] == environment["FINETUNE_PROGRESS_URL"]
    assert environment["KUBEFLOW_TRAINER_SERVER_TOKEN"] == "/etc/finetune/progress/token"
    assert environment["KUBEFLOW_TRAINER_SERVER_CA_CERT"] == "/etc/finetune/progress-ca/ca.crt"


def test_credentials_are_mounted_never_put_into_the_environment() -> None:
    source = mounts(Stage.TRAIN)["/etc/finetune/credentials/s3-credentials"]

    assert source == {"secret": {"secretName": "s3-credentials", "defaultMode": 0o440}}
    assert "optional" not in source["secret"]
    assert all("valueFrom" not in variable for variable in container()["env"])
    assert "envFrom" not in container()


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


def test_other_devices_are_asked_for_beside_gpus() -> None:
    job = make_job(resources__extended={"rdma/hca": 1, "vpc.amazonaws.com/efa": 4})

    assert container(Stage.TRAIN, job)["resources"]["limits"] == {
        "memory": "16Gi",
        "nvidia.com/gpu": "1",
        "rdma/hca": "1",
        "vpc.amazonaws.com/efa": "4",
    }
    assert container(Stage.EXPORT, job)["resources"]["limits"] == {"memory": "8Gi"}


def test_placement_is_the_train_pods() -> None:
    job = make_job(
        resources__nodeSelector={"pool": "gpu"},
        resources__tolerations=[{"key": "gpu", "operator": "Exists", "tolerationSeconds": 5}],
        resources__priorityClassName="high",
        resources__runtimeClassName="nvidia",
    )

    train, prepare = pod_spec(Stage.TRAIN, job), pod_spec(Stage.PREPARE, job)

    assert train["nodeSelector"] == {"pool": "gpu"}
    assert train["tolerations"] == [{"key": "gpu", "operator": "Exists", "tolerationSeconds": 5}]
    assert train["priorityClassName"] == "high"
    assert train["runtimeClassName"] == "nvidia"
    assert not {"nodeSelector", "tolerations", "priorityClassName", "runtimeClassName"} & prepare.keys()


GRACE = {
    "Auto": (Stage.TRAIN, "Auto", None, 120),
    "as a stop was measured": (Stage.TRAIN, "Auto", 200.0, 415),
    "as long as the user says": (Stage.TRAIN, 600, 200.0, 600),
    "only a train pod has something to save": (Stage.EXPORT, 600, 200.0, 30),
}


@pytest.mark.parametrize(("stage", "wanted", "measured", "seconds"), GRACE.values(), ids=GRACE.keys())
def test_how_long_a_pod_may_save(
    stage: Stage, wanted: str | int, measured: float | None, seconds: int
) -> None:
    job = make_job(checkpoints__gracePeriodSeconds=wanted)

    built = desired_objects(job, stage, 2, make_pod_settings(), stop_seconds=measured).job
    spec = built["spec"]["template"]["spec"]

    environment = {each["name"]: each["value"] for each in spec["containers"][0]["env"]}
    assert spec["terminationGracePeriodSeconds"] == seconds
    assert environment["FINETUNE_GRACE_SECONDS"] == str(seconds)


def test_the_administrators_service_account_is_used() -> None:
    assert pod_spec(service_account="trainer")["serviceAccountName"] == "trainer"
    assert "serviceAccountName" not in pod_spec()


@pytest.mark.parametrize("stage", list(Stage))
def test_pull_secrets_of_the_installation_and_of_the_job_are_used_once(stage: Stage) -> None:
    job = make_job(imagePullSecrets=[{"name": "mine"}, {"name": "registry"}])

    spec = pod_spec(stage, job, image_pull_secrets=("registry",))

    assert spec["imagePullSecrets"] == [{"name": "registry"}, {"name": "mine"}]
    assert "imagePullSecrets" not in pod_spec(stage)


def test_the_ca_bundle_stands_where_the_pods_look_for_it() -> None:
    assert build_ca_bundle("ca", "ml", "PEM")["data"] == {"ca.crt": "PEM"}
