"""`spec.model`: the base model that is fine-tuned."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from finetune_api.base import MESSAGE_KEY, ApiModel, CelRule
from finetune_api.spec.references import TokenSecretRef
from finetune_api.spec.store import Store
from finetune_api.spec.uris import MODEL_URI_PATTERN, REVISION_PATTERN, cel_is_hub

ModelUri = Annotated[str, StringConstraints(pattern=MODEL_URI_PATTERN, max_length=1024)]
Revision = Annotated[str, StringConstraints(pattern=REVISION_PATTERN, max_length=128)]

_NAMES_A_HUB = (
    f"{cel_is_hub('self.source')} || (has(self.adapterSource) && {cel_is_hub('self.adapterSource')})"
)
_NAMES_A_STORE = (
    "self.source.startsWith('s3://') || (has(self.adapterSource) && self.adapterSource.startsWith('s3://'))"
)


class Model(ApiModel):
    """The base model."""

    cel_rules: ClassVar[tuple[CelRule, ...]] = (
        CelRule(
            f"!has(self.revision) || {cel_is_hub('self.source')}",
            "model.revision is a version of a hub's repository, but model.source is not hf:// or modelscope://: remove revision",
        ),
        CelRule(
            f"!has(self.tokenSecretRef) || {_NAMES_A_HUB}",
            "model.tokenSecretRef is for a hub, but neither model.source nor adapterSource is hf:// or modelscope://: remove tokenSecretRef",
        ),
        CelRule(
            f"!has(self.store) || {_NAMES_A_STORE}",
            "model.store is for an s3:// source, but neither model.source nor adapterSource is s3://: remove store",
        ),
    )
    immutable_fields: ClassVar[tuple[str, ...]] = (
        "source",
        "revision",
        "adapter_source",
        "trust_remote_code",
    )
    settled_fields: ClassVar[tuple[str, ...]] = ("store", "token_secret_ref")

    source: ModelUri = Field(
        json_schema_extra={
            MESSAGE_KEY: "model.source must be hf://org/name, modelscope://org/name, s3://bucket/prefix or pvc://claim/path, "
            "such as hf://Qwen/Qwen3-0.6B"
        },
        description="source is where the base model stands: hf://org/name (Hugging Face), modelscope://org/name, s3://bucket/prefix or "
        "pvc://claim/path of a folder as `save_pretrained` writes it (config.json, *.safetensors, tokenizer.json). Hub models are fetched "
        "once, by the prepare stage. Only safetensors weights are read. Immutable.",
    )
    revision: Revision | None = Field(
        default=None,
        json_schema_extra={MESSAGE_KEY: "model.revision must be a branch, a tag or a commit, such as main"},
        description="revision of a hub's repository: a branch, a tag or, best, a commit. Default: the hub's main branch, as it stands when "
        "the prepare stage reads it. Immutable.",
    )
    token_secret_ref: TokenSecretRef | None = Field(
        default=None,
        description="tokenSecretRef names the Secret with the hub's token, for gated and private models. Default: no token. Can be changed while the job is Pending, Queued, Suspended or Failed.",
    )
    store: Store | None = Field(
        default=None,
        description="store of an s3:// source or adapterSource. Default: output.store. Can be changed while the job is Pending, Queued, Suspended or Failed.",
    )
    adapter_source: ModelUri | None = Field(
        default=None,
        json_schema_extra={
            MESSAGE_KEY: "model.adapterSource must be hf://org/name, modelscope://org/name, s3://bucket/prefix or pvc://claim/path"
        },
        description="adapterSource is an earlier adapter of this base model that training goes on from, a folder as peft's "
        "`save_pretrained` writes it; it has the method.type of this job. Default: a new adapter. Immutable.",
    )
    trust_remote_code: bool = Field(
        default=False,
        description="trustRemoteCode runs Python code that comes with the model. It is refused unless the cluster's administrator allows "
        "it. Default: false. Immutable.",
    )
