"""FineTuneJobs as they are delivered: parsed once, and what does not parse is this job's problem alone."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.job_resource import InstallationRules, is_settled, parse_job
from tests.builders.jobs import make_manifest
from tests.unit.operator.builders import make_job


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        pytest.param({"model__source": "nowhere"}, "spec.model.source", id="a URI without scheme"),
        pytest.param({"method__type": "Magic"}, "spec.method.type", id="an unknown method"),
        pytest.param({"dataset__train": "all"}, "spec.dataset.train", id="text for a list"),
        pytest.param({"surprise": {"a": 1}}, "spec.surprise", id="an unknown field"),
    ],
)
def test_a_spec_that_does_not_parse_is_told_by_field(changes: dict[str, Any], field: str) -> None:
    job = make_job(**changes)

    assert job.spec is None
    assert job.problem is not None
    assert field in job.problem
    assert job.problem.endswith("Correct the spec and apply it again.")


@pytest.mark.parametrize("spec", [None, [], "text", {}])
def test_a_spec_that_is_none_is_a_problem_too(spec: object) -> None:
    metadata = {"name": "bot", "namespace": "ml", "uid": "u"}

    assert parse_job({"metadata": metadata, "spec": spec}).problem


@pytest.mark.parametrize("name", ["a" * 43, "1bot", "a.b"])
def test_a_name_that_pods_cannot_be_named_after_is_a_problem(name: str) -> None:
    job = parse_job({"metadata": {"name": name, "namespace": "ml", "uid": "u"}, "spec": {}})

    assert job.problem is not None
    assert "metadata.name" in job.problem


@pytest.mark.parametrize(
    ("status", "settled"),
    [
        ({}, False),
        (None, False),
        ({"observedGeneration": 2, "conditions": [{"type": "Finished", "status": "True"}]}, True),
        ({"observedGeneration": 1, "conditions": [{"type": "Finished", "status": "True"}]}, False),
        ({"observedGeneration": 2, "conditions": [{"type": "Finished", "status": "False"}]}, False),
    ],
)
def test_a_job_is_settled_when_it_ended_with_the_spec_it_has(status: Any, settled: bool) -> None:
    assert is_settled({"metadata": {"generation": 2}, "status": status}) is settled


def test_a_job_without_output_hears_of_the_default_store() -> None:
    body = make_manifest("bot", "ml")
    del body["spec"]["output"]
    body["metadata"] |= {"uid": "u", "resourceVersion": "1"}

    problem = parse_job(body).problem

    assert problem is not None
    assert problem.startswith("spec.output is left out, and this installation has no default store.")


def test_remote_code_runs_only_where_the_administrator_allows_it() -> None:
    body = make_manifest("bot", "ml", model__trustRemoteCode=True)
    body["metadata"] |= {"uid": "u", "resourceVersion": "1"}

    refused, allowed = parse_job(body), parse_job(body, InstallationRules(trust_remote_code=True))

    assert refused.problem is not None
    assert "spec.model.trustRemoteCode is true" in refused.problem
    assert allowed.problem is None
