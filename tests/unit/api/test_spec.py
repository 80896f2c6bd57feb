"""The spec as the trainer and the CLI parse it: defaults, bounds, unknown fields, round trip."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from finetune_api.spec import FineTuneJobSpec
from tests.builders.jobs import make_manifest


def parse(**changes: Any) -> FineTuneJobSpec:
    return FineTuneJobSpec.model_validate(make_manifest(**changes)["spec"])


def test_a_minimal_job_gets_the_documented_defaults() -> None:
    spec = parse()

    assert (spec.method.lora.rank, spec.method.lora.alpha, spec.method.lora.target_modules) == (
        16,
        32,
        ["auto"],
    )
    assert (spec.training.learning_rate, spec.training.global_batch_size, spec.training.seed) == (
        2e-4,
        16,
        42,
    )
    assert (spec.checkpoints.every_steps, spec.checkpoints.keep_last) == (100, 2)
    assert spec.output.merged.enabled
    assert spec.resources.export.memory == "8Gi"


@pytest.mark.parametrize(
    ("changes", "location"),
    [
        pytest.param({"training__learningRate": 2}, "training.learningRate", id="a learning rate above 1"),
        pytest.param(
            {"training__learningRate": "NaN"}, "training.learningRate", id="a learning rate that is no number"
        ),
        pytest.param({"method__type": "lora"}, "method.type", id="a method in lower case"),
        pytest.param({"method__lora__rank": 0}, "method.lora.rank", id="rank zero"),
        pytest.param({"model__source": "https://x/y"}, "model.source", id="a model that is not in a store"),
        pytest.param({"dataset__train": []}, "dataset.train", id="no training source"),
        pytest.param({"trainning__epochs": 3}, "trainning", id="a misspelt block"),
        pytest.param({"resources__memory": "16 GB"}, "resources.memory", id="a quantity with a space"),
        pytest.param(
            {"output__merged__maxShardSize": "5GiB"}, "output.merged.maxShardSize", id="an unknown unit"
        ),
    ],
)
def test_a_wrong_value_is_refused_at_its_field(changes: dict[str, Any], location: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        parse(**changes)

    assert location in {".".join(map(str, error["loc"])) for error in refusal.value.errors()}


def test_whole_numbers_are_accepted_as_quantities() -> None:
    assert parse(resources__cpu=2).resources.cpu == "2"


def test_a_spec_survives_the_way_through_the_job_file() -> None:
    spec = parse(
        training__warmupSteps=3, dataset__train=[{"inline": [{"input_text": "a", "target_text": "b"}]}]
    )

    assert FineTuneJobSpec.model_validate_json(spec.model_dump_json(exclude_none=True)) == spec
