"""What makes two trainings the same one, so that a checkpoint of one means anything to the other."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_trainer.run_file import config_digest_of
from tests.builders.run_files import make_run_file

ADAPTER = {"uri": "s3://models/old", "source": "s3://models/old", "digest": "c" * 64, "files": ()}


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"total_steps": 20}, id="a longer run"),
        pytest.param({"warmup_steps": 3, "decay_steps": 4}, id="another schedule"),
        pytest.param({"evaluation_steps": 5}, id="other steps between evaluations"),
        pytest.param({"run": "bot-76543210", "job_uid": "7654321000"}, id="another run"),
        pytest.param({"model__uri": "s3://elsewhere/base"}, id="the same model elsewhere"),
        pytest.param({"dataset__prepared_uri": "s3://elsewhere/prepared"}, id="the same rows elsewhere"),
    ],
)
def test_the_digest_is_the_same_for(changes: dict[str, Any]) -> None:
    assert config_digest_of(make_run_file(**changes)) == config_digest_of(make_run_file())


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"model__digest": "c" * 64}, id="another base model"),
        pytest.param({"dataset__digest": "c" * 64}, id="other rows"),
        pytest.param({"adapter": ADAPTER}, id="an earlier adapter"),
        pytest.param({"adapter": {**ADAPTER, "digest": "d" * 64}}, id="another earlier adapter"),
        pytest.param({"method__target_modules": ["q_proj"]}, id="fewer adapted layers"),
        pytest.param({"settings__seed": 1}, id="another seed"),
        pytest.param({"settings__global_batch_size": 16}, id="another batch size"),
        pytest.param({"settings__optimizer": "AdamW8bit"}, id="another optimizer"),
        pytest.param({"settings__method": {"type": "LoRA", "lora": {"rank": 8}}}, id="another rank"),
        pytest.param({"settings__task": "SequenceClassification"}, id="another task"),
        pytest.param({"settings__labels": ["good", "bad"]}, id="other classes"),
        pytest.param({"settings": None}, id="a file that does not say"),
    ],
)
def test_the_digest_differs_for(changes: dict[str, Any]) -> None:
    assert config_digest_of(make_run_file(**changes)) != config_digest_of(make_run_file())


def test_two_earlier_adapters_differ() -> None:
    one, other = (make_run_file(adapter={**ADAPTER, "digest": letter * 64}) for letter in ("c", "d"))
    assert config_digest_of(one) != config_digest_of(other)


def test_the_order_in_which_settings_are_written_does_not_matter() -> None:
    one = make_run_file(settings__method={"type": "LoRA", "lora": {"rank": 4, "alpha": 8}})
    other = make_run_file(settings__method={"lora": {"alpha": 8, "rank": 4}, "type": "LoRA"})
    assert config_digest_of(one) == config_digest_of(other)
