"""`spec.evaluation`: what is measured on the base and on the tuned model, and what the tuned one must reach."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from finetune_api.base import ApiModel, CelRule

Fraction = Annotated[float, Field(ge=0, le=1)]
Points = Annotated[float, Field(ge=0, le=100)]
Milliseconds = Annotated[float, Field(gt=0, le=3_600_000)]


class Metric(StrEnum):
    """What can be measured."""

    PERPLEXITY = "Perplexity"
    ACCURACY = "Accuracy"
    F1 = "F1"
    AUC = "AUC"
    EXACT_MATCH = "ExactMatch"
    BLEU = "BLEU"
    CHRF = "ChrF"
    ROUGE = "ROUGE"
    LATENCY = "Latency"
    ROBUSTNESS = "Robustness"


class Minimum(ApiModel):
    """The least the tuned model must reach; below it the job fails."""

    accuracy: Fraction | None = Field(
        default=None, description="accuracy: share of right answers, 0 to 1. Default: none."
    )
    f1: Fraction | None = Field(
        default=None, description="f1, averaged over the classes, 0 to 1. Default: none."
    )
    auc: Fraction | None = Field(
        default=None,
        description="auc: area under the ROC curve, averaged over the classes, 0 to 1. Default: none.",
    )
    exact_match: Fraction | None = Field(
        default=None,
        description="exactMatch: share of answers equal to the expected one, 0 to 1. Default: none.",
    )
    bleu: Points | None = Field(default=None, description="bleu, 0 to 100. Default: none.")
    chr_f: Points | None = Field(default=None, description="chrF, 0 to 100. Default: none.")
    rouge: Fraction | None = Field(default=None, description="rouge: ROUGE-L, 0 to 1. Default: none.")
    robustness: Fraction | None = Field(
        default=None,
        description="robustness: share of the quality that is kept on disturbed inputs, 0 to 1. Default: none.",
    )


class Maximum(ApiModel):
    """The most that is allowed of what should be small; above it the job fails."""

    perplexity: Annotated[float, Field(ge=1, le=1e12)] | None = Field(
        default=None, description="perplexity of the tuned model. Default: none."
    )
    token_milliseconds: Milliseconds | None = Field(
        default=None, description="tokenMilliseconds: Latency of each token after the first. Default: none."
    )
    first_token_milliseconds: Milliseconds | None = Field(
        default=None, description="firstTokenMilliseconds: Latency of the first token. Default: none."
    )


class Generation(ApiModel):
    """How answers are generated for the metrics that compare texts."""

    cel_rules: ClassVar[tuple[CelRule, ...]] = (
        CelRule(
            "!(has(self.topK) || has(self.topP)) || self.temperature > 0.0",
            "generation.topK and topP choose among likely tokens, but generation.temperature 0 always takes the likeliest: "
            "set a temperature above 0, or remove topK and topP",
        ),
    )

    max_new_tokens: Annotated[int, Field(ge=1, le=131_072)] = Field(
        default=256, description="maxNewTokens of an answer. Default: 256."
    )
    temperature: Annotated[float, Field(ge=0, le=10)] = Field(
        default=0.0, description="temperature: 0 always takes the likeliest token. Default: 0."
    )
    top_k: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        default=None, description="topK: only so many of the likeliest tokens are drawn from. Default: all."
    )
    top_p: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None,
        description="topP: only the likeliest tokens that together have this probability are drawn from. Default: all.",
    )


def _bound_rule(bound: str, field: str, metric: Metric) -> CelRule:
    return CelRule(
        # The block's default `{}` is held to its rules before its own defaults are filled in.
        f"!self.?{bound}.?{field}.hasValue() || '{metric}' in self.metrics",
        f"evaluation.{bound}.{field} is about a metric that evaluation.metrics does not measure: add {metric} to metrics, "
        f"or remove {bound}.{field}",
    )


class Evaluation(ApiModel):
    """What is measured, once on the base model and once on the tuned one."""

    cel_rules: ClassVar[tuple[CelRule, ...]] = (
        _bound_rule("minimum", "accuracy", Metric.ACCURACY),
        _bound_rule("minimum", "f1", Metric.F1),
        _bound_rule("minimum", "auc", Metric.AUC),
        _bound_rule("minimum", "exactMatch", Metric.EXACT_MATCH),
        _bound_rule("minimum", "bleu", Metric.BLEU),
        _bound_rule("minimum", "chrF", Metric.CHRF),
        _bound_rule("minimum", "rouge", Metric.ROUGE),
        _bound_rule("minimum", "robustness", Metric.ROBUSTNESS),
        _bound_rule("maximum", "perplexity", Metric.PERPLEXITY),
        _bound_rule("maximum", "tokenMilliseconds", Metric.LATENCY),
        _bound_rule("maximum", "firstTokenMilliseconds", Metric.LATENCY),
    )

    metrics: Annotated[list[Metric], Field(max_length=10)] = Field(
        default=[],
        json_schema_extra={"x-kubernetes-list-type": "set"},
        description="metrics that are measured on dataset.test, or on dataset.validation where there is no test: Perplexity, Accuracy, F1, AUC, "
        "ExactMatch, BLEU, ChrF, ROUGE, Latency (milliseconds to the first and to each next token), Robustness (on disturbed inputs). Default: none.",
    )
    minimum: Minimum = Field(
        default=Minimum(),
        description="minimum that the tuned model must reach, by metric; otherwise the job fails and the model stays in the run's folder.",
    )
    maximum: Maximum = Field(
        default=Maximum(),
        description="maximum that the tuned model must not exceed, for Perplexity and Latency.",
    )
    max_samples: Annotated[int, Field(ge=1, le=10_000_000)] = Field(
        default=1000,
        description="maxSamples of the rows are evaluated, chosen by training.seed. Default: 1000.",
    )
    generation: Generation = Field(
        default=Generation(),
        description="generation says how answers are generated for the metrics that compare texts.",
    )
