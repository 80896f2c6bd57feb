"""Settings of the methods that train few parameters: LoRA, AdaLoRA, IA3, prefix and prompt tuning. Names follow peft."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from finetune_api.base import ApiModel, CelRule

ModuleName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*$", max_length=128)]
# A union of a word and a list is not structural; Kubernetes' way out is preserve-unknown-fields plus a CEL rule.
# We keep the list and let `["auto"]` be the default.
TargetModules = Annotated[list[ModuleName], Field(min_length=1, max_length=64)]
VirtualTokens = Annotated[int, Field(ge=1, le=4096)]


def _auto_alone(block: str, field: str = "targetModules") -> CelRule:
    return CelRule(
        f"!('auto' in self.{field}) || self.{field}.size() == 1",
        f"{block}.{field}: auto already takes all layers and stands alone: remove auto, or the names beside it",
    )


class LoRAVariant(StrEnum):
    """How the adapter is scaled and started."""

    STANDARD = "Standard"
    RS_LORA = "RSLoRA"
    DORA = "DoRA"
    PISSA = "PiSSA"


class LoRA(ApiModel):
    """Low-rank adapters. Source: Hu et al. 2021, arXiv:2106.09685."""

    cel_rules: ClassVar[tuple[CelRule, ...]] = (
        _auto_alone("lora"),
        CelRule(
            "!has(self.fullyTrainedModules) || !self.fullyTrainedModules.exists(name, name in self.targetModules)",
            "lora.fullyTrainedModules and lora.targetModules name the same module, which is trained whole or gets an adapter, not both: "
            "remove it from one of them",
        ),
    )

    rank: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=16,
        description="rank of the adapter matrices (LoRA's r): more learns more and takes more memory. Default: 16. Immutable.",
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
    variant: LoRAVariant = Field(
        default=LoRAVariant.STANDARD,
        description="variant: Standard; RSLoRA scales by alpha / √rank, for high ranks; DoRA trains length and direction of the weights apart; "
        "PiSSA starts from the base model's largest singular vectors and is exported as plain LoRA. Default: Standard. Immutable.",
    )
    fully_trained_modules: TargetModules | None = Field(
        default=None,
        description="fullyTrainedModules are layers that are trained whole beside the adapter, by name (self_attn, lm_head …): the mixed "
        "strategy of LoRA and full training. They are saved with the adapter. Default: none. Immutable.",
    )


class AdaLoRA(ApiModel):
    """LoRA whose rank moves to where it helps. Source: Zhang et al. 2023, arXiv:2303.10512."""

    cel_rules: ClassVar[tuple[CelRule, ...]] = (
        _auto_alone("adaLora"),
        CelRule(
            "self.targetRank <= self.initialRank",
            "adaLora.targetRank is larger than adaLora.initialRank, but ranks only shrink: lower targetRank or raise initialRank",
        ),
        CelRule(
            "self.initialFraction + self.finalFraction < 1.0",
            "adaLora.initialFraction and adaLora.finalFraction together leave no steps in which ranks shrink: lower one of them",
        ),
    )

    initial_rank: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=12,
        description="initialRank of every adapter, from which ranks are taken away. Default: 12. Immutable.",
    )
    target_rank: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=8, description="targetRank is the average rank at the end. Default: 8. Immutable."
    )
    alpha: Annotated[float, Field(gt=0, le=4096)] = Field(
        default=32, description="alpha scales the adapter by alpha / rank. Default: 32. Immutable."
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="dropout on the adapter's input while training. Default: 0. Immutable."
    )
    target_modules: TargetModules = Field(
        default=["auto"],
        description="targetModules are the linear layers that get an adapter, by name; [auto] takes all linear layers but the output head. "
        "Default: [auto]. Immutable.",
    )
    initial_fraction: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.1,
        description="initialFraction of all steps before ranks begin to shrink (peft's tinit). Default: 0.1. Immutable.",
    )
    final_fraction: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.3,
        description="finalFraction of all steps after ranks are settled (peft's tfinal). Default: 0.3. Immutable.",
    )
    interval_steps: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=10,
        description="intervalSteps between two changes of the ranks (peft's deltaT). Default: 10. Immutable.",
    )
    beta1: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.85,
        description="beta1 smooths how much each rank matters from step to step. Default: 0.85. Immutable.",
    )
    beta2: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.85,
        description="beta2 smooths how uncertain that is. Default: 0.85. Immutable.",
    )
    orthogonal_weight: Annotated[float, Field(ge=0, le=100)] = Field(
        default=0.5,
        description="orthogonalWeight of the penalty that keeps the adapter's directions apart (peft's orth_reg_weight). Default: 0.5. Immutable.",
    )


class IA3(ApiModel):
    """One trained factor for each activation. Source: Liu et al. 2022, arXiv:2205.05638."""

    cel_rules: ClassVar[tuple[CelRule, ...]] = (
        _auto_alone("ia3"),
        _auto_alone("ia3", "feedforwardModules"),
        CelRule(
            "('auto' in self.targetModules) == ('auto' in self.feedforwardModules)",
            "ia3.targetModules and ia3.feedforwardModules are chosen together: name the modules of both, or leave both at [auto]",
        ),
        CelRule(
            "'auto' in self.feedforwardModules || self.feedforwardModules.all(name, name in self.targetModules)",
            "ia3.feedforwardModules names a module that ia3.targetModules does not: add it to targetModules",
        ),
    )

    target_modules: TargetModules = Field(
        default=["auto"],
        description="targetModules are the layers whose activations get factors, by name; [auto] takes keys, values and the feed-forward "
        "layer, as in the paper. Default: [auto]. Immutable.",
    )
    feedforward_modules: TargetModules = Field(
        default=["auto"],
        description="feedforwardModules are those of targetModules whose input is scaled instead of the output. Default: [auto]. Immutable.",
    )


class PrefixTuning(ApiModel):
    """Trained keys and values before the input, in every layer. Source: Li and Liang 2021, arXiv:2101.00190."""

    cel_rules: ClassVar[tuple[CelRule, ...]] = (
        CelRule(
            "!has(self.projectionHiddenSize) || self.projection",
            "prefixTuning.projectionHiddenSize is the width of the projection and needs prefixTuning.projection: true: set it, or remove "
            "projectionHiddenSize",
        ),
    )

    virtual_tokens: VirtualTokens = Field(
        default=20,
        description="virtualTokens that are trained; they take as many places of the model's context. Default: 20. Immutable.",
    )
    projection: bool = Field(
        default=False,
        description="projection trains the prefix through a small network, which can be steadier. Default: false. Immutable.",
    )
    projection_hidden_size: Annotated[int, Field(ge=1, le=65_536)] | None = Field(
        default=None,
        description="projectionHiddenSize of that network. Default: the model's hidden size. Immutable.",
    )


class PromptInit(StrEnum):
    """What virtual tokens start from."""

    RANDOM = "Random"
    VOCABULARY = "Vocabulary"
    TEXT = "Text"


class PromptTuning(ApiModel):
    """Trained embeddings before the input. Source: Lester et al. 2021, arXiv:2104.08691."""

    cel_rules: ClassVar[tuple[CelRule, ...]] = (
        CelRule(
            "has(self.initText) == (self.init == 'Text')",
            "promptTuning.initText and promptTuning.init: Text belong together: set both, or neither",
        ),
    )

    virtual_tokens: VirtualTokens = Field(
        default=20,
        description="virtualTokens that are trained; they take as many places of the model's context. Default: 20. Immutable.",
    )
    init: PromptInit = Field(
        default=PromptInit.RANDOM,
        description="init: Random numbers, words drawn from the Vocabulary, or the words of initText (Text). Default: Random. Immutable.",
    )
    init_text: Annotated[str, StringConstraints(min_length=1, max_length=4096)] | None = Field(
        default=None,
        description="initText whose tokens the virtual tokens start from, with init Text. Default: none. Immutable.",
    )
