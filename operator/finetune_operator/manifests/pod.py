"""The pod of a stage: one container within the restricted Pod Security Standard, without access to the API."""

from __future__ import annotations

from finetune_api import names
from finetune_api.names import Stage
from finetune_api.spec import FineTuneJobSpec
from finetune_operator.job_resource import FineTuneJob
from finetune_operator.kubernetes_objects import JsonObject
from finetune_operator.manifests.environment import build_environment
from finetune_operator.manifests.resources import build_resources
from finetune_operator.manifests.volumes import build_mounts, build_volumes, list_volumes
from finetune_operator.settings import PodSettings

USER_ID = 65532
# What a train pod has to save a checkpoint after SIGTERM; the other stages keep nothing.
TRAIN_GRACE_SECONDS = 120
GRACE_SECONDS = 30


def build_pod_spec(
    job: FineTuneJob, stage: Stage, attempt: int, image: str, settings: PodSettings
) -> JsonObject:
    """Build the pod's spec."""
    assert job.spec is not None
    volumes = list_volumes(job.spec, names.child_name(job.name, stage, attempt), stage, settings)
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": TRAIN_GRACE_SECONDS if stage is Stage.TRAIN else GRACE_SECONDS,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        **_service_account(settings),
        **(_placement(job.spec) if stage is Stage.TRAIN else {}),
        "containers": [
            {
                "name": names.TRAINER_CONTAINER,
                "image": image,
                "imagePullPolicy": settings.image_pull_policy,
                "args": [stage.value, "--job", names.JOB_FILE_PATH],
                "env": build_environment(settings),
                "resources": build_resources(job.spec, stage),
                "terminationMessagePath": names.TERMINATION_MESSAGE_PATH,
                "terminationMessagePolicy": "File",
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                    "readOnlyRootFilesystem": True,
                },
                "volumeMounts": build_mounts(volumes),
            }
        ],
        "volumes": build_volumes(volumes),
    }


def _service_account(settings: PodSettings) -> JsonObject:
    secrets = [{"name": name} for name in settings.image_pull_secrets]
    return {
        **({"serviceAccountName": settings.service_account} if settings.service_account else {}),
        **({"imagePullSecrets": secrets} if secrets else {}),
    }


def _placement(spec: FineTuneJobSpec) -> JsonObject:
    """Where the train pod may run."""
    resources = spec.resources
    tolerations = [
        toleration.model_dump(mode="json", exclude_none=True) for toleration in resources.tolerations or ()
    ]
    return {
        **({"nodeSelector": dict(resources.node_selector)} if resources.node_selector else {}),
        **({"tolerations": tolerations} if tolerations else {}),
        **({"priorityClassName": resources.priority_class_name} if resources.priority_class_name else {}),
    }
