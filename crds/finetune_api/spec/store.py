"""How an S3-compatible store is reached: one shape wherever S3 is meant (output, model, each data source)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from finetune_api.base import ApiModel, ObjectName


class Addressing(StrEnum):
    """How the bucket stands in the request: `Path` (most own stores) or `VirtualHost` (AWS, OSS, COS)."""

    AUTO = "Auto"
    PATH = "Path"
    VIRTUAL_HOST = "VirtualHost"


class Checksums(StrEnum):
    """Whether checksums travel with every request or only where the store's API demands them."""

    WHEN_SUPPORTED = "WhenSupported"
    WHEN_REQUIRED = "WhenRequired"


class SecretRef(ApiModel):
    """A Secret of the job's namespace."""

    name: ObjectName = Field(
        description="name of a Secret in the job's namespace. Keys: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, "
        "for temporary credentials, AWS_SESSION_TOKEN. It is mounted as files, never copied."
    )


class Store(ApiModel):
    """An S3-compatible object store."""

    endpoint: (
        Annotated[
            str, StringConstraints(pattern=r"^https?://[A-Za-z0-9.\[\]:-]+(:[0-9]{1,5})?/?$", max_length=512)
        ]
        | None
    ) = Field(
        default=None,
        json_schema_extra={
            "x-message": "store.endpoint must be a URL of scheme, host and port, such as https://s3.example.com:9000"
        },
        description="endpoint is the store's URL, such as https://s3.example.com. Without it, AWS's own endpoint for the region.",
    )
    region: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]+$", max_length=64)] = Field(
        default="us-east-1",
        description="region is the store's region. Stores without regions accept the default. Default: us-east-1.",
    )
    addressing: Addressing = Field(
        default=Addressing.AUTO,
        description="addressing says where the bucket's name stands: Path (https://host/bucket), VirtualHost "
        "(https://bucket.host), or Auto: Path when endpoint is set, VirtualHost otherwise. Default: Auto.",
    )
    checksums: Checksums = Field(
        default=Checksums.WHEN_SUPPORTED,
        description="checksums: WhenSupported sends a CRC32 with every upload; WhenRequired is for older stores that "
        "refuse checksum headers. Default: WhenSupported.",
    )
    credentials_secret_ref: SecretRef | None = Field(
        default=None,
        description="credentialsSecretRef names the Secret with the access keys. Without it, the pod's workload identity is used.",
    )
