"""`spec.method`: which parameters are trained, and how."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from finetune_api.base import ApiModel

ModuleName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*$", max_length=128)]
# A union of a word and a list is not structural; Kubernetes' way out is preserve-unknown-fields plus a CEL rule.
# We keep the list and let `["auto"]` be the default.
TargetModules = Annotated[list[ModuleName], Field(min_length=1, max_length=64)]


class MethodType(StrEnum):
    """The fine-tuning method."""

    LORA = "LoRA"


class LoRA(ApiModel):
    """Low-rank adapters. Source: Hu et al. 2021, arXiv:2106.09685."""

    rank: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=16, description="rank of the adapter matrices (LoRA's r). Default: 16. Immutable."
    )
    alpha: Annotated[float, Field(gt=0, le=4096)] = Field(
        default=32, description="alpha scales the adapter by alpha / rank. Default: 32. Immutable."
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="dropout on the adapter's input while training. Default: 0. Immutable."
    )
    target_modules: TargetModules = Field(
        default=["auto"],
        description="targetModules are the linear layers that get an adapter, by name (q_proj, v_proj …); [auto] takes "
        "all linear layers but the output head. Default: [auto]. Immutable.",
    )


class Method(ApiModel):
    """The fine-tuning method and its settings."""

    type: MethodType = Field(description="type of the method: LoRA. Immutable.")
    lora: LoRA = Field(default=LoRA(), description="lora holds the settings of type LoRA. Immutable.")
