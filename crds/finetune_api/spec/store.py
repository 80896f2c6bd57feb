"""How an S3-compatible store is reached: one shape wherever S3 is meant (output, model, each data source)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from finetune_api.base import MESSAGE_KEY, ApiModel, CelRule
from finetune_api.spec.references import CABundleRef, SecretRef


class Addressing(StrEnum):
    """How the bucket stands in the request: `Path` (most own stores) or `VirtualHost` (AWS, OSS, COS)."""

    AUTO = "Auto"
    PATH = "Path"
    VIRTUAL_HOST = "VirtualHost"


class Checksums(StrEnum):
    """Whether checksums travel with every request or only where the store's API demands them."""

    WHEN_SUPPORTED = "WhenSupported"
    WHEN_REQUIRED = "WhenRequired"


class Store(ApiModel):
    """An S3-compatible object store."""

    cel_rules: ClassVar[tuple[CelRule, ...]] = (
        CelRule(
            "!has(self.caBundleRef) || (has(self.endpoint) && self.endpoint.startsWith('https://'))",
            "store.caBundleRef is for a store.endpoint that begins with https://: set such an endpoint or remove caBundleRef",
        ),
    )

    endpoint: (
        Annotated[
            str, StringConstraints(pattern=r"^https?://[A-Za-z0-9.\[\]:-]+(:[0-9]{1,5})?/?$", max_length=512)
        ]
        | None
    ) = Field(
        default=None,
        json_schema_extra={
            MESSAGE_KEY: "store.endpoint must be a URL of scheme, host and port, such as https://s3.example.com:9000"
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
        description="checksums: WhenSupported sends a checksum with every upload; WhenRequired is for older stores that "
        "refuse checksum headers. Default: WhenSupported.",
    )
    ca_bundle_ref: CABundleRef | None = Field(
        default=None,
        description="caBundleRef names a ConfigMap with the certificates that an https:// endpoint is checked against. "
        "Default: the image's public authorities.",
    )
    credentials_secret_ref: SecretRef | None = Field(
        default=None,
        description="credentialsSecretRef names the Secret with the access keys. Without it, the pod's workload identity is used.",
    )


class OutputStore(Store):
    """A store that is written to."""

    encryption: (
        Annotated[str, StringConstraints(pattern=r"^(AES256|KMS(:[A-Za-z0-9:/_.-]+)?)$", max_length=512)]
        | None
    ) = Field(
        default=None,
        json_schema_extra={
            MESSAGE_KEY: "store.encryption must be AES256, KMS or KMS:<key>, such as KMS:alias/models"
        },
        description="encryption asks the store to encrypt what is written: AES256 by a key of its own, KMS or KMS:<key> by one of its "
        "key management service. Default: as the bucket is set up.",
    )
