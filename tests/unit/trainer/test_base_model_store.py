"""Which store every pod reads the base model from."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.base_model import base_model_store
from tests.builders.jobs import make_manifest

OWN = {"endpoint": "https://own.example.com"}
OUTPUT = {"endpoint": "https://output.example.com"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({}, OUTPUT, id="a model in the output's store"),
        pytest.param({"model__store": OWN}, OWN, id="a model in a store of its own"),
        pytest.param(
            {"model__source": "hf://org/name"}, OUTPUT, id="a hub's model, brought to the output's store"
        ),
        pytest.param(
            {
                "model__source": "hf://org/name",
                "model__adapterSource": "s3://adapters/a",
                "model__store": OWN,
            },
            OUTPUT,
            id="a hub's model, and a store for its adapter",
        ),
        pytest.param({"model__source": "pvc://claim/model"}, OUTPUT, id="a claim's model"),
    ],
)
def test_the_base_model_is_read_from_one_store(changes: dict[str, Any], expected: dict[str, str]) -> None:
    spec = FineTuneJobSpec.model_validate(make_manifest(output__store=OUTPUT, **changes)["spec"])

    assert base_model_store(spec).endpoint == expected["endpoint"]
