"""A FineTuneJob without output writes to the administrator's store, and stays where it began."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.spec import FineTuneJobSpec, OutputStore
from finetune_operator.default_output import DefaultStore, resolve_output
from tests.builders.jobs import make_manifest

KEYS = {"credentialsSecretRef": {"name": "keys"}}
DEFAULT = DefaultStore("s3://models/tuned", OutputStore.model_validate({"region": "eu-west-1"} | KEYS))
RESOLVED = {"uri": "s3://models/tuned/ml/bot", "store": {"region": "eu-west-1"} | KEYS}
BEGUN = {"outputs": {"runURI": "s3://old/place/runs/bot-01234567", "store": KEYS}}

# What the user wrote as output, the status, and the output that is meant.
OUTPUTS: dict[str, tuple[Any, Any, Any]] = {
    "left out": (..., None, RESOLVED),
    "null": (None, None, RESOLVED),
    "without uri, with other settings": (
        {"merged": {"enabled": False}},
        None,
        {**RESOLVED, "merged": {"enabled": False}},
    ),
    "without uri, with a store of its own": (
        {"store": {"region": "us-east-2"}},
        None,
        {"uri": RESOLVED["uri"], "store": {"region": "us-east-2"}},
    ),
    "given": ({"uri": "s3://mine/bot"}, None, {"uri": "s3://mine/bot"}),
    "given, and the job has begun": ({"uri": "s3://mine/bot"}, BEGUN, {"uri": "s3://mine/bot"}),
    "left out, and the job has begun elsewhere": (..., BEGUN, {"uri": "s3://old/place", "store": KEYS}),
    "left out, and nothing of it is in status": (..., {"outputs": {}}, RESOLVED),
    "left out, and status cannot be read": (..., {"outputs": {"runURI": 7}}, RESOLVED),
    "no output at all": ("nonsense", None, "nonsense"),
}


@pytest.mark.parametrize(("written", "status", "meant"), OUTPUTS.values(), ids=OUTPUTS.keys())
def test_the_output_that_is_meant(written: Any, status: Any, meant: Any) -> None:
    raw = make_manifest(output=written)["spec"]

    resolved = resolve_output(raw, "ml", "bot", DEFAULT, status)

    assert isinstance(resolved, dict)
    assert resolved["output"] == meant
    assert {k: v for k, v in resolved.items() if k != "output"} == {
        k: v for k, v in raw.items() if k != "output"
    }


def test_what_was_resolved_can_be_parsed() -> None:
    resolved = resolve_output(make_manifest(output=...)["spec"], "ml", "bot", DEFAULT)

    output = FineTuneJobSpec.model_validate(resolved).output

    assert (output.uri, output.store) == ("s3://models/tuned/ml/bot", DEFAULT.store)


@pytest.mark.parametrize("raw", [None, "text", [], make_manifest(output=...)["spec"]])
def test_without_a_default_nothing_is_changed(raw: object) -> None:
    assert resolve_output(raw, "ml", "bot", None) is raw


def test_a_begun_job_needs_no_default_any_more() -> None:
    raw = make_manifest(output=...)["spec"]

    resolved = resolve_output(raw, "ml", "bot", None, BEGUN)

    assert isinstance(resolved, dict)
    assert resolved["output"]["uri"] == "s3://old/place"


def test_the_users_object_is_not_touched() -> None:
    raw = make_manifest(output={"merged": {"enabled": False}})["spec"]

    resolve_output(raw, "ml", "bot", DEFAULT)

    assert raw["output"] == {"merged": {"enabled": False}}
