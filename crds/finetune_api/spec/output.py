"""`spec.output`: where the run's checkpoints and the finished model go."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from finetune_api.base import S3_URI_PATTERN, ApiModel
from finetune_api.spec.store import Store


class MergedPrecision(StrEnum):
    """Number format of the merged model's weights."""

    BASE = "Base"
    BF16 = "BF16"
    FP32 = "FP32"


class MergedModel(ApiModel):
    """The base model with the adapter merged in: loads without peft."""

    enabled: bool = Field(default=True, description="enabled writes merged/ beside adapter/. Default: true.")
    precision: MergedPrecision = Field(
        default=MergedPrecision.BASE,
        description="precision of the merged weights: Base keeps the base model's, BF16 or FP32 converts. Default: Base.",
    )
    max_shard_size: Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,5}(MB|GB)$", max_length=16)] = (
        Field(
            default="5GB",
            json_schema_extra={
                "x-message": "output.merged.maxShardSize must be a whole number of MB or GB, such as 5GB"
            },
            description="maxShardSize of one safetensors file. Default: 5GB.",
        )
    )


class Output(ApiModel):
    """Where the result goes."""

    immutable_fields: ClassVar[tuple[str, ...]] = ("uri",)

    uri: Annotated[str, StringConstraints(pattern=S3_URI_PATTERN, max_length=900)] = Field(
        json_schema_extra={
            "x-message": "output.uri must be s3://bucket/prefix, such as s3://models/support-bot"
        },
        description="uri is the model's prefix in the store, s3://bucket/prefix. Each run stands below it as runs/<name>-<uid>/. Immutable.",
    )
    store: Store = Field(
        default=Store(), description="store of uri, and of every s3:// source that names no other."
    )
    merged: MergedModel = Field(
        default=MergedModel(), description="merged says whether and how the merged model is written."
    )
