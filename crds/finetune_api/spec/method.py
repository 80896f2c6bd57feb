"""`spec.method`: which parameters are trained, and how. The settings of LoRA and its kin stand in `adapters.py`."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from finetune_api.base import UNWRITTEN, ApiModel, CelRule
from finetune_api.spec.adapters import IA3, AdaLoRA, LoRA, PrefixTuning, PromptTuning


class MethodType(StrEnum):
    """The fine-tuning method."""

    FULL = "Full"
    LORA = "LoRA"
    QLORA = "QLoRA"
    ADA_LORA = "AdaLoRA"
    IA3 = "IA3"
    PREFIX_TUNING = "PrefixTuning"
    PROMPT_TUNING = "PromptTuning"


class QuantizationType(StrEnum):
    """Number format of the frozen base model."""

    NF4 = "NF4"
    FP4 = "FP4"
    INT8 = "INT8"


class ComputeType(StrEnum):
    """Number format that quantized weights are expanded to for computing."""

    AUTO = "Auto"
    BF16 = "BF16"
    FP16 = "FP16"
    FP32 = "FP32"


class Quantization(ApiModel):
    """The base model in 4 or 8 bits a weight. Source: Dettmers et al. 2023, arXiv:2305.14314."""

    cel_rules: ClassVar[tuple[CelRule, ...]] = (
        CelRule(
            "!has(self.doubleQuantization) || !self.doubleQuantization || self.type != 'INT8'",
            "quantization.doubleQuantization is for type NF4 and FP4, but quantization.type is INT8: remove doubleQuantization",
        ),
    )

    type: QuantizationType = Field(
        default=QuantizationType.NF4,
        description="type of the numbers: NF4 or FP4 (4 bits), INT8 (8 bits). Default: NF4. Immutable.",
    )
    double_quantization: bool = Field(
        default=True,
        json_schema_extra=UNWRITTEN,
        description="doubleQuantization quantizes the scales too, which saves another 0.4 bits a weight; NF4 and FP4 only. Default: true. Immutable.",
    )
    compute_type: ComputeType = Field(
        default=ComputeType.AUTO,
        description="computeType that weights are expanded to: BF16, FP16, FP32, or Auto: that of training.precision. Default: Auto. Immutable.",
    )


def _settings_rule(block: str, *types: str) -> CelRule:
    named, listed = ", ".join(f"'{name}'" for name in types), " or ".join(types)
    return CelRule(
        f"!has(self.{block}) || self.type in [{named}]",
        f"method.{block} holds the settings of method.type {listed}: set that type or remove {block}",
    )


class Method(ApiModel):
    """The fine-tuning method and its settings."""

    cel_rules: ClassVar[tuple[CelRule, ...]] = (
        _settings_rule("lora", "LoRA", "QLoRA"),
        _settings_rule("adaLora", "AdaLoRA"),
        _settings_rule("ia3", "IA3"),
        _settings_rule("prefixTuning", "PrefixTuning"),
        _settings_rule("promptTuning", "PromptTuning"),
        CelRule(
            "!has(self.quantization) || self.type == 'QLoRA'",
            "method.quantization makes the base model small enough to train adapters on, which is method.type QLoRA; Full and the other "
            "types train or compute with whole weights: set type: QLoRA or remove quantization",
        ),
        CelRule(
            "self.type != 'QLoRA' || !has(self.lora) || self.lora.variant != 'PiSSA'",
            "method.lora.variant PiSSA starts from the base model's weights, which method.type QLoRA has quantized: set variant: Standard, "
            "or type: LoRA",
        ),
        CelRule(
            "self.type != 'QLoRA' || !has(self.lora) || !has(self.lora.fullyTrainedModules) || "
            "self.lora.fullyTrainedModules.all(name, name in ['embed_tokens', 'lm_head'])",
            "method.lora.fullyTrainedModules: with method.type QLoRA only embed_tokens and lm_head can be trained whole, because the other "
            "layers are quantized: remove them, or set type: LoRA",
        ),
    )

    immutable_fields: ClassVar[tuple[str, ...]] = (
        "type",
        "lora",
        "quantization",
        "ada_lora",
        "ia3",
        "prefix_tuning",
        "prompt_tuning",
    )

    type: MethodType = Field(
        description="type of the method: Full trains every weight; LoRA trains small matrices beside frozen weights; QLoRA is LoRA on a base "
        "model of 4 or 8 bits; AdaLoRA is LoRA that moves its rank to where it helps; IA3 trains one factor for each activation; PrefixTuning "
        "and PromptTuning train virtual tokens in every layer, or before the input. Immutable."
    )
    lora: LoRA = Field(
        default=LoRA(),
        json_schema_extra=UNWRITTEN,
        description="lora holds the settings of types LoRA and QLoRA: small matrices that are trained beside the frozen weights. Immutable.",
    )
    quantization: Quantization = Field(
        default=Quantization(),
        json_schema_extra=UNWRITTEN,
        description="quantization of the frozen base model, for type QLoRA. Immutable.",
    )
    ada_lora: AdaLoRA = Field(
        default=AdaLoRA(),
        json_schema_extra=UNWRITTEN,
        description="adaLora holds the settings of type AdaLoRA. Immutable.",
    )
    ia3: IA3 = Field(
        default=IA3(),
        json_schema_extra=UNWRITTEN,
        description="ia3 holds the settings of type IA3. Immutable.",
    )
    prefix_tuning: PrefixTuning = Field(
        default=PrefixTuning(),
        json_schema_extra=UNWRITTEN,
        description="prefixTuning holds the settings of type PrefixTuning. Immutable.",
    )
    prompt_tuning: PromptTuning = Field(
        default=PromptTuning(),
        json_schema_extra=UNWRITTEN,
        description="promptTuning holds the settings of type PromptTuning. Immutable.",
    )
