"""`spec.output`: where the run's checkpoints and the finished model go."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from finetune_api.base import MESSAGE_KEY, S3_URI_PATTERN, UNWRITTEN, ApiModel, CelRule
from finetune_api.spec.store import OutputStore


class MergedPrecision(StrEnum):
    """Number format of the merged model's weights."""

    BASE = "Base"
    BF16 = "BF16"
    FP32 = "FP32"


class Export(StrEnum):
    """Which state of the run becomes the model."""

    BEST = "Best"
    LAST = "Last"


class QuantizedCopy(StrEnum):
    """A smaller copy of the merged model."""

    NONE = "None"
    INT8 = "INT8"
    NF4 = "NF4"


class MergedModel(ApiModel):
    """The base model with the adapter merged in: loads without peft."""

    enabled: bool = Field(
        default=True,
        json_schema_extra=UNWRITTEN,
        description="enabled writes merged/ beside adapter/. Default: true where the method can be merged (all but PrefixTuning and PromptTuning).",
    )
    precision: MergedPrecision = Field(
        default=MergedPrecision.BASE,
        description="precision of the merged weights: Base keeps the base model's, BF16 or FP32 converts. Default: Base.",
    )
    verify: bool = Field(
        default=True,
        description="verify compares the merged model with base + adapter, weight by weight and on real rows, before the job may succeed. Default: true.",
    )
    max_shard_size: Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,5}(MB|GB)$", max_length=16)] = (
        Field(
            default="5GB",
            json_schema_extra={
                MESSAGE_KEY: "output.merged.maxShardSize must be a whole number of MB or GB, such as 5GB"
            },
            description="maxShardSize of one safetensors file. Default: 5GB.",
        )
    )


class Output(ApiModel):
    """Where the result goes."""

    cel_rules: ClassVar[tuple[CelRule, ...]] = (
        CelRule(
            "self.quantized == 'None' || !has(self.merged.enabled) || self.merged.enabled",
            "output.quantized is a copy of the merged model, but output.merged.enabled is false: set quantized: None, or enabled: true",
        ),
        CelRule(
            "!has(self.adapter) || self.adapter || !has(self.merged.enabled) || self.merged.enabled",
            "output.adapter and output.merged.enabled are both false, so nothing would be left of the run: set one of them to true",
        ),
    )
    immutable_fields: ClassVar[tuple[str, ...]] = ("uri",)
    settled_fields: ClassVar[tuple[str, ...]] = (
        "cache_uri",
        "store",
        "export",
        "adapter",
        "merged",
        "quantized",
    )

    uri: Annotated[str, StringConstraints(pattern=S3_URI_PATTERN, max_length=900)] = Field(
        json_schema_extra={
            MESSAGE_KEY: "output.uri must be s3://bucket/prefix, such as s3://models/support-bot"
        },
        description="uri is the model's prefix in the store, s3://bucket/prefix. Each run stands below it as runs/<name>-<uid>/. Immutable.",
    )
    cache_uri: Annotated[str, StringConstraints(pattern=S3_URI_PATTERN, max_length=900)] | None = Field(
        default=None,
        alias="cacheURI",
        json_schema_extra={
            MESSAGE_KEY: "output.cacheURI must be s3://bucket/prefix, such as s3://models/cache"
        },
        description="cacheURI is the prefix, s3://bucket/prefix in the same store, where prepared data and fetched models are shared by jobs. "
        "Default: .cache/ below uri. Can be changed while the job is Pending, Queued, Suspended or Failed.",
    )
    store: OutputStore = Field(
        default=OutputStore(),
        description="store of uri, and of every s3:// source that names no other. Can be changed while the job is Pending, Queued, Suspended or Failed.",
    )
    export: Export = Field(
        default=Export.LAST,
        description="export: Last exports the state at the end of training, Best the checkpoint with the lowest validation loss; needs "
        "dataset.validation and checkpoints.keepBest. Default: Last. Can be changed while the job is Pending, Queued, Suspended or Failed.",
    )
    adapter: bool = Field(
        default=True,
        json_schema_extra=UNWRITTEN,
        description="adapter writes adapter/, the trained part alone. Default: true where the method has an adapter (all but Full). Can be changed while the job is Pending, Queued, Suspended or Failed.",
    )
    merged: MergedModel = Field(
        default=MergedModel(),
        description="merged says whether and how the merged model is written. Can be changed while the job is Pending, Queued, Suspended or Failed.",
    )
    quantized: QuantizedCopy = Field(
        default=QuantizedCopy.NONE,
        description="quantized writes a smaller copy of the merged model as well: INT8, NF4 or None. Default: None. Can be changed while the job is Pending, Queued, Suspended or Failed.",
    )
