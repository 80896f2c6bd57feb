"""References to Secrets and ConfigMaps of the job's namespace: by name only, never copied, never `valueFrom`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from finetune_api.base import ApiModel, ObjectName

FileKey = Annotated[str, StringConstraints(pattern=r"^[-._a-zA-Z0-9]+$", min_length=1, max_length=253)]


class SecretRef(ApiModel):
    """A Secret of the job's namespace with the keys of an S3-compatible store."""

    name: ObjectName = Field(
        description="name of a Secret in the job's namespace. Keys: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, "
        "for temporary credentials, AWS_SESSION_TOKEN. It is mounted as files, never copied."
    )


class TokenSecretRef(ApiModel):
    """A Secret of the job's namespace with the token of a model hub."""

    name: ObjectName = Field(
        description="name of a Secret in the job's namespace. It is mounted as a file in the prepare pod only, never copied."
    )
    key: FileKey = Field(
        default="token", description="key of the Secret that holds the token. Default: token."
    )


class TrackerSecretRef(ApiModel):
    """A Secret of the job's namespace with what a tracking server asks for."""

    name: ObjectName = Field(
        description="name of a Secret in the job's namespace. Keys: SWANLAB_API_KEY, WANDB_API_KEY, MLFLOW_TRACKING_TOKEN, or "
        "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD. It is mounted as files, never copied."
    )


class PullSecretRef(ApiModel):
    """A Secret of the job's namespace of type kubernetes.io/dockerconfigjson."""

    name: ObjectName = Field(
        description="name of a Secret of type kubernetes.io/dockerconfigjson in the job's namespace."
    )


class CABundleRef(ApiModel):
    """A ConfigMap of the job's namespace with certificates to trust."""

    name: ObjectName = Field(description="name of a ConfigMap in the job's namespace.")
    key: FileKey = Field(
        default="ca.crt",
        description="key of the ConfigMap that holds the certificates, PEM. Default: ca.crt.",
    )
