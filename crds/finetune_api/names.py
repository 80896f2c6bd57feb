"""Names that two parts must agree on: labels, child objects, mount paths, environment variables."""

from __future__ import annotations

from enum import StrEnum

from finetune_api import GROUP

OPERATOR_NAME = "finetune-operator"
FIELD_MANAGER = OPERATOR_NAME
PROGRESS_TOKEN_AUDIENCE = OPERATOR_NAME

LABEL_JOB = f"{GROUP}/job"
LABEL_JOB_UID = f"{GROUP}/job-uid"
LABEL_STAGE = f"{GROUP}/stage"
LABEL_ATTEMPT = f"{GROUP}/attempt"
# On a child Job: digest of the part of the spec that it was made from.
ANNOTATION_SPEC_DIGEST = f"{GROUP}/spec-digest"
# On a FineTuneJob with deletionPolicy Delete, and on no other.
FINALIZER = f"{GROUP}/store-cleanup"
# Kueue's own names: sigs.k8s.io/kueue, pkg/controller/constants.
LABEL_KUEUE_QUEUE = "kueue.x-k8s.io/queue-name"
LABEL_KUEUE_PRIORITY_CLASS = "kueue.x-k8s.io/priority-class"
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"

# 42 leaves room for "-prepare-<attempt>" and the pod's index and suffix within 63 characters.
MAX_JOB_NAME_LENGTH = 42
JOB_NAME_PATTERN = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"


class Stage(StrEnum):
    """What a child Job does. A FineTuneJob is a chain of the first three."""

    PREPARE = "prepare"
    TRAIN = "train"
    EXPORT = "export"
    # Only where deletionPolicy is Delete and the FineTuneJob is being deleted.
    CLEANUP = "cleanup"


STAGES = (Stage.PREPARE, Stage.TRAIN, Stage.EXPORT)


def child_name(job_name: str, stage: Stage, attempt: int) -> str:
    """Name of the Job, and of its ConfigMap, of one attempt (counted from 1 within its stage)."""
    return f"{job_name}-{stage}-{attempt}"


# --- inside the pods -------------------------------------------------------------------------------------------

CONFIG_DIRECTORY = "/etc/finetune"
JOB_FILE_NAME = "job.json"
JOB_FILE_PATH = f"{CONFIG_DIRECTORY}/job/{JOB_FILE_NAME}"
WORK_DIRECTORY = "/work"
PROGRESS_TOKEN_PATH = f"{CONFIG_DIRECTORY}/progress/token"
PROGRESS_CA_PATH = f"{CONFIG_DIRECTORY}/progress-ca/ca.crt"
# The authorities by which the installation reaches hubs.
HUB_CA_PATH = f"{CONFIG_DIRECTORY}/hub-ca/ca.crt"
TERMINATION_MESSAGE_PATH = "/dev/termination-log"
TRAINER_CONTAINER = "trainer"

ENV_PROGRESS_URL = "FINETUNE_PROGRESS_URL"
ENV_PROGRESS_TOKEN_PATH = "FINETUNE_PROGRESS_TOKEN_PATH"  # noqa: S105 (a variable's name)
ENV_PROGRESS_CA_PATH = "FINETUNE_PROGRESS_CA_PATH"
# What transformers' KubeflowCallback reads, so that any Hugging Face Trainer image can report. The last two are paths.
# Source: transformers 5.23, integrations/integration_utils.py.
ENV_KUBEFLOW_URL = "KUBEFLOW_TRAINER_SERVER_URL"
ENV_KUBEFLOW_TOKEN_PATH = "KUBEFLOW_TRAINER_SERVER_TOKEN"  # noqa: S105 (a variable's name)
ENV_KUBEFLOW_CA_PATH = "KUBEFLOW_TRAINER_SERVER_CA_CERT"
ENV_WORK_DIRECTORY = "FINETUNE_WORK_DIRECTORY"
# Train pods of several nodes find pod 0 by it: `host:port`.
ENV_COORDINATOR_ADDRESS = "FINETUNE_COORDINATOR_ADDRESS"
# Set by Kubernetes in the pods of an Indexed Job: the pod's index.
ENV_COMPLETION_INDEX = "JOB_COMPLETION_INDEX"
# The pod's terminationGracePeriodSeconds.
ENV_GRACE_SECONDS = "FINETUNE_GRACE_SECONDS"
# Where the ranks of a gang meet, on pod 0.
RENDEZVOUS_PORT = 29500

SECRET_KEY_ACCESS_KEY_ID = "AWS_ACCESS_KEY_ID"  # noqa: S105
SECRET_KEY_SECRET_ACCESS_KEY = "AWS_SECRET_ACCESS_KEY"  # noqa: S105
SECRET_KEY_SESSION_TOKEN = "AWS_SESSION_TOKEN"  # noqa: S105


def credentials_directory(secret_name: str) -> str:
    """Folder in the pod where the keys of a credentials Secret stand, one file a key."""
    return f"{CONFIG_DIRECTORY}/credentials/{secret_name}"


def config_map_directory(config_map_name: str) -> str:
    """Folder in the prepare pod where a data ConfigMap stands, one file a key."""
    return f"{CONFIG_DIRECTORY}/data/{config_map_name}"


def claim_directory(claim_name: str) -> str:
    """Folder in the pod where the PersistentVolumeClaim of a pvc:// source is mounted."""
    return f"{CONFIG_DIRECTORY}/claims/{claim_name}"


def ca_bundle_directory(name: str) -> str:
    """Folder in the pod where the certificates of a store's own authority stand."""
    return f"{CONFIG_DIRECTORY}/ca-bundles/{name}"
