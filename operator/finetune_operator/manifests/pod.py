"""The pod of a stage: one container within the restricted Pod Security Standard, without access to the API."""

from __future__ import annotations

from finetune_api import names
from finetune_operator.kubernetes_objects import JsonObject
from finetune_operator.manifests.environment import build_environment
from finetune_operator.manifests.placement import build_placement
from finetune_operator.manifests.resources import build_resources
from finetune_operator.manifests.volumes import build_mounts, build_volumes, list_volumes
from finetune_operator.manifests.wanted import WantedAttempt
from finetune_operator.settings import PodSettings

USER_ID = 65532


def build_pod_spec(wanted: WantedAttempt, settings: PodSettings) -> JsonObject:
    """Build the pod's spec. Everything in it is named here: no part of the spec is copied into it as it stands."""
    volumes, deadline = list_volumes(wanted, settings), wanted.deadline_seconds
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": wanted.grace_seconds,
        # It counts from when a node took the pod, so neither waiting nor Kueue's suspensions are billed.
        **({} if deadline is None else {"activeDeadlineSeconds": deadline}),
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
        **({"serviceAccountName": settings.service_account} if settings.service_account else {}),
        **_pull_secrets(wanted, settings),
        # The pods' host names stand below the Service's.
        **({"subdomain": wanted.name} if wanted.is_gang else {}),
        **build_placement(wanted),
        "containers": [_container(wanted, settings) | {"volumeMounts": build_mounts(volumes)}],
        "volumes": build_volumes(volumes),
    }


def _container(wanted: WantedAttempt, settings: PodSettings) -> JsonObject:
    return {
        "name": names.TRAINER_CONTAINER,
        "image": wanted.image,
        "imagePullPolicy": settings.image_pull_policy,
        "args": [wanted.stage.value, "--job", names.JOB_FILE_PATH],
        "env": build_environment(wanted, settings),
        "resources": build_resources(wanted.spec, wanted.stage),
        "terminationMessagePath": names.TERMINATION_MESSAGE_PATH,
        "terminationMessagePolicy": "File",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
    }


def _pull_secrets(wanted: WantedAttempt, settings: PodSettings) -> JsonObject:
    """The installation's and the job's, each once."""
    own = (reference.name for reference in wanted.spec.image_pull_secrets or ())
    found = dict.fromkeys((*settings.image_pull_secrets, *own))
    return {"imagePullSecrets": [{"name": name} for name in found]} if found else {}
