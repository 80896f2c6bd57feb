"""Wrong jobs are refused by the API server itself, with our sentences, before anything of ours has seen them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.builders.jobs import make_manifest
from tests.integration.api import wrong_data, wrong_runs, wrong_training
from tests.integration.operator.api_client import FINETUNE, Api, RequestRefused

STRICT = "dryRun=All&fieldValidation=Strict"
WRONG = [
    *wrong_data.WRONG_TASKS,
    *wrong_data.WRONG_MODELS,
    *wrong_data.WRONG_STORES,
    *wrong_data.WRONG_DATA,
    *wrong_data.WRONG_PREPARATION,
    *wrong_training.WRONG_METHODS,
    *wrong_training.WRONG_TRAINING,
    *wrong_training.WRONG_PARALLELISM,
    *wrong_runs.WRONG_RESOURCES,
    *wrong_runs.WRONG_CHECKPOINTS,
    *wrong_runs.WRONG_EVALUATION,
    *wrong_runs.WRONG_OUTPUT,
    *wrong_runs.WRONG_TRACKING,
    *wrong_runs.WRONG_LIFE_CYCLE,
]


def dry_run(api: Api, manifest: dict[str, Any]) -> None:
    api.send("POST", f"{api.path(FINETUNE, 'finetunejobs')}?{STRICT}", manifest)


@pytest.mark.parametrize(("changes", "sentence"), [pytest.param(c, s, id=i) for i, c, s in WRONG])
def test_a_wrong_job_is_refused(api: Api, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RequestRefused) as refusal:
        dry_run(api, make_manifest(**changes))

    assert sentence in refusal.value.message


@pytest.mark.parametrize("name", ["1job", "a.b", "a" * 43])
def test_a_name_that_pods_cannot_be_named_after_is_refused(api: Api, name: str) -> None:
    with pytest.raises(RequestRefused, match=r"metadata\.name must start with a letter"):
        dry_run(api, make_manifest(name=name))
