"""How the Lease is taken from the operator before its finalizers are removed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from finetune_operator.uninstall import HOLD_SECONDS, seconds_until_silent, seize

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
USUAL = timedelta(seconds=15)


def lease(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "finetune-operator", "resourceVersion": "7"}, "spec": spec}


def test_a_seized_lease_has_another_holder_for_long() -> None:
    found = lease(holderIdentity="operator-abc_1", leaseDurationSeconds=10, leaseTransitions=3)

    seized = seize(found, "hook_2", NOW)

    assert seized["spec"] == {
        "holderIdentity": "hook_2",
        "leaseDurationSeconds": HOLD_SECONDS,
        "acquireTime": "2026-01-01T12:00:00.000000Z",
        "renewTime": "2026-01-01T12:00:00.000000Z",
        "leaseTransitions": 4,
    }
    # So that a renewal in between is a conflict and not undone.
    assert seized["metadata"]["resourceVersion"] == "7"


SILENCE: dict[str, tuple[dict[str, Any], float]] = {
    "nobody ever held it": ({}, 0),
    "it was given back": (lease(leaseDurationSeconds=10), 0),
    "the operator holds it": (lease(holderIdentity="operator_1", leaseDurationSeconds=10), 10),
    "an earlier try took it, perhaps just now": (
        lease(holderIdentity="hook_1", leaseDurationSeconds=HOLD_SECONDS),
        15,
    ),
}


@pytest.mark.parametrize(("found", "seconds"), SILENCE.values(), ids=SILENCE.keys())
def test_how_long_the_holder_may_go_on_to_write(found: dict[str, Any], seconds: float) -> None:
    assert seconds_until_silent(found, USUAL) == seconds
