"""`spec.model`: the base model that is fine-tuned."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from finetune_api.base import S3_URI_PATTERN, ApiModel
from finetune_api.spec.store import Store


class Model(ApiModel):
    """The base model."""

    source: Annotated[str, StringConstraints(pattern=S3_URI_PATTERN, max_length=1024)] = Field(
        json_schema_extra={
            "x-message": "model.source must be s3://bucket/prefix, such as s3://models/qwen3-0.6b"
        },
        description="source is where the base model stands: s3://bucket/prefix of a folder as `save_pretrained` writes it "
        "(config.json, *.safetensors, tokenizer.json). Only safetensors weights are read. Immutable.",
    )
    store: Store | None = Field(default=None, description="store of an s3:// source. Default: output.store.")
