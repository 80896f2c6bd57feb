"""A run goes on only from checkpoints of the same training."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_trainer.checkpoints import CheckpointManifest
from finetune_trainer.errors import UserError
from finetune_trainer.run_file import RunFile, config_digest_of
from finetune_trainer.starting_point import refuse_other_training
from tests.builders.checkpoints import make_facts
from tests.builders.run_files import make_run_file


def make_manifest_of(run_file: RunFile) -> CheckpointManifest:
    """A checkpoint that was taken by the training of this file."""
    facts = make_facts(
        400,
        model_digest=run_file.model.digest,
        dataset_digest=run_file.dataset.digest,
        config_digest=config_digest_of(run_file),
    )
    return CheckpointManifest(**dict(facts), run=run_file.run, created="2026-01-01T00:00:00Z", files=())


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="the training itself"),
        pytest.param({"total_steps": 1000, "warmup_steps": 10}, id="for longer"),
    ],
)
def test_a_run_goes_on(changes: dict[str, Any]) -> None:
    refuse_other_training(make_manifest_of(make_run_file()), make_run_file(**changes))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        pytest.param(
            {"model__digest": "c" * 64}, "its base model have digest aaaaaaaaaaaa", id="another model"
        ),
        pytest.param({"dataset__digest": "c" * 64}, "rows, tokenizer, dataset settings", id="other rows"),
        pytest.param({"settings__seed": 1}, "method, optimizer, seed and batch size", id="another seed"),
        pytest.param(
            {"model__digest": "c" * 64, "dataset__digest": "c" * 64, "settings__seed": 1},
            "its base model",
            id="all of them: the model is named",
        ),
    ],
)
def test_another_training_is_refused(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(UserError) as refused:
        refuse_other_training(make_manifest_of(make_run_file()), make_run_file(**changes))
    assert "The checkpoint of step 400 belongs to another training" in refused.value.message
    assert what in refused.value.message
    assert "Put back what was replaced" in refused.value.message


def test_the_digest_that_the_run_has_is_named_beside_the_checkpoints() -> None:
    with pytest.raises(UserError, match=r"have digest b{12}, this run's c{12}\."):
        refuse_other_training(make_manifest_of(make_run_file()), make_run_file(dataset__digest="c" * 64))
