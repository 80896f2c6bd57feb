"""Which edits make another child."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.spec_digest import spec_digest
from tests.unit.operator.builders import make_job


def digest(**changes: Any) -> str:
    spec = make_job(**changes).spec
    assert spec is not None
    return spec_digest(spec)


@pytest.mark.parametrize(
    ("changes", "is_another"),
    [
        pytest.param({"resources__memory": "64Gi"}, True, id="resources"),
        pytest.param({"dataset__preparation__maxLength": 512}, True, id="the longest row"),
        pytest.param({"dataset__preparation__maxLength": 1024}, False, id="what was once a default"),
        pytest.param({"parallelism__nodes": 2}, True, id="parallelism"),
        pytest.param({"image": "trainer:2"}, True, id="the image"),
        pytest.param({"queueName": "team"}, True, id="the queue"),
        pytest.param({"checkpoints__everySteps": 7}, True, id="checkpoints"),
        pytest.param({"suspend": True}, False, id="a wish about now"),
        pytest.param({"retry": 3}, False, id="a retry"),
        pytest.param({"failurePolicy__maxRestarts": 9}, False, id="what the operator decides by"),
        pytest.param({"ttlSecondsAfterFinished": 60}, False, id="what comes after"),
        pytest.param(
            {"resources__gpuResourceName": "nvidia.com/gpu"}, False, id="a default that is written out"
        ),
    ],
)
def test_the_digest_differs_where_the_child_would(changes: dict[str, Any], is_another: bool) -> None:
    assert (digest(**changes) != digest()) is is_another
