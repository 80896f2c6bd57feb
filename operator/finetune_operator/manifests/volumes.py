"""What a stage's pod mounts: the job file, a working folder, the progress token and CA, credentials and data."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass

from finetune_api import GROUP, names
from finetune_api.names import Stage
from finetune_api.spec import FineTuneJobSpec
from finetune_operator.hub_access import CABundle, asks_hub
from finetune_operator.kubernetes_objects import JsonObject
from finetune_operator.manifests.resources import stage_resources
from finetune_operator.manifests.wanted import WantedAttempt
from finetune_operator.references import Reference, ReferenceKind, list_references
from finetune_operator.settings import PodSettings

# The kubelet renews a projected token when a fifth of its life is left.
TOKEN_LIFETIME_SECONDS = 3600
# Readable by the pod's group (fsGroup), by nobody else.
SECRET_FILE_MODE = 0o440
# On a cleanup pod: its job.json.
ANNOTATION_JOB_FILE = f"{GROUP}/job-file"


@dataclass(frozen=True)
class Volume:
    """A volume and the one place where it is mounted."""

    name: str
    mount_path: str
    source: JsonObject
    read_only: bool = True


def build_volumes(volumes: Sequence[Volume]) -> list[JsonObject]:
    """Build the pod's `volumes`."""
    return [{"name": volume.name, **volume.source} for volume in volumes]


def build_mounts(volumes: Sequence[Volume]) -> list[JsonObject]:
    """Build the container's `volumeMounts`."""
    return [
        {
            "name": volume.name,
            "mountPath": volume.mount_path,
            **({"readOnly": True} if volume.read_only else {}),
        }
        for volume in volumes
    ]


def list_volumes(wanted: WantedAttempt, settings: PodSettings) -> tuple[Volume, ...]:
    """List the volumes of a stage's pod."""
    spec, stage = wanted.spec, wanted.stage
    return (
        _job_file(wanted),
        _work(spec, stage),
        *(_shared_memory(spec) if stage is Stage.TRAIN else ()),
        *(_hub_ca(settings.hub.ca_bundle) if asks_hub(spec, stage) else ()),
        *((_progress_token(), _progress_ca(settings)) if stage is not Stage.CLEANUP else ()),
        *(_reference(index, each) for index, each in enumerate(list_references(spec, stage))),
    )


def _job_file(wanted: WantedAttempt) -> Volume:
    """From the attempt's ConfigMap; cleanup has none and reads its own annotation."""
    source: JsonObject = {"configMap": {"name": wanted.name}}
    if wanted.stage is Stage.CLEANUP:
        field = {"fieldPath": f"metadata.annotations['{ANNOTATION_JOB_FILE}']"}
        source = {"downwardAPI": {"items": [{"path": names.JOB_FILE_NAME, "fieldRef": field}]}}
    return Volume("job", posixpath.dirname(names.JOB_FILE_PATH), source)


def _work(spec: FineTuneJobSpec, stage: Stage) -> Volume:
    size = stage_resources(spec, stage).ephemeral_storage
    return Volume("work", names.WORK_DIRECTORY, {"emptyDir": {"sizeLimit": size}}, read_only=False)


def _shared_memory(spec: FineTuneJobSpec) -> tuple[Volume, ...]:
    # Without it /dev/shm is the runtime's 64 MiB, which NCCL and DataLoader workers outgrow.
    source = {"emptyDir": {"medium": "Memory", "sizeLimit": spec.resources.shared_memory}}
    return (Volume("shared-memory", "/dev/shm", source, read_only=False),)  # noqa: S108


def _progress_token() -> Volume:
    token = {
        "audience": names.PROGRESS_TOKEN_AUDIENCE,
        "expirationSeconds": TOKEN_LIFETIME_SECONDS,
        "path": posixpath.basename(names.PROGRESS_TOKEN_PATH),
    }
    return Volume(
        "progress-token",
        posixpath.dirname(names.PROGRESS_TOKEN_PATH),
        {"projected": {"sources": [{"serviceAccountToken": token}], "defaultMode": SECRET_FILE_MODE}},
    )


def _progress_ca(settings: PodSettings) -> Volume:
    # Optional: a job must not wait for what only its display needs. Mounted live, so that rotation arrives.
    source = {"configMap": {"name": settings.ca_config_map, "optional": True}}
    return Volume("progress-ca", posixpath.dirname(names.PROGRESS_CA_PATH), source)


def _hub_ca(bundle: CABundle | None) -> tuple[Volume, ...]:
    if bundle is None:
        return ()
    item = {"key": bundle.key, "path": posixpath.basename(names.HUB_CA_PATH)}
    source = {"configMap": {"name": bundle.config_map, "items": [item]}}
    return (Volume("hub-ca", posixpath.dirname(names.HUB_CA_PATH), source),)


def _reference(index: int, reference: Reference) -> Volume:
    """Mount what the spec names. The volume is numbered, because object names may be longer than volume names."""
    match reference.kind:
        case ReferenceKind.SECRET:
            source = {"secret": {"secretName": reference.name, "defaultMode": SECRET_FILE_MODE}}
            return Volume(f"credentials-{index}", reference.mount_path, source)
        case ReferenceKind.CONFIG_MAP:
            source = {"configMap": {"name": reference.name}}
            return Volume(f"data-{index}", reference.mount_path, source)
        case ReferenceKind.CLAIM:
            # Read-only in the pod's spec as well: so it may be mounted by many, and fsGroup changes nobody's files.
            source = {"persistentVolumeClaim": {"claimName": reference.name, "readOnly": True}}
            return Volume(f"claim-{index}", reference.mount_path, source)
