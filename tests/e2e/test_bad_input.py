"""What a user gets wrong is said in status, in a sentence with the next action, before any train pod exists."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.e2e.jobs import Jobs


def rows(*rows: object) -> list[dict[str, Any]]:
    return [{"inline": list(rows)}]


FAILS: list[tuple[str, dict[str, Any], str, str]] = [
    ("no bucket", {"model__source": "s3://nowhere-at-all/base"}, "StorageDenied|UserError", "nowhere-at-all"),
    ("no model", {"model__source": "s3://e2e/no-model"}, "UserError", "s3://e2e/no-model"),
    (
        "no data file",
        {"dataset__train": [{"source": "s3://e2e/data/none.jsonl"}]},
        "UserError|DataError",
        "none.jsonl",
    ),
    (
        "a row without answer",
        {"dataset__train": rows({"messages": [{"role": "user", "content": "hi"}]})},
        "DataError",
        "row 1",
    ),
]


@pytest.mark.parametrize(
    ("changes", "reasons", "words"), [pytest.param(*case[1:], id=case[0]) for case in FAILS]
)
def test_a_job_that_cannot_work_fails_before_a_train_pod_exists(
    jobs: Jobs, changes: dict[str, Any], reasons: str, words: str
) -> None:
    jobs.apply("wrong", **changes)

    status = jobs.wait_for("wrong", "Failed", timeout_seconds=90)

    assert status["reason"] in reasons.split("|")
    assert words in status["message"]
    assert {attempt["stage"] for attempt in status["attempts"]} == {"prepare"}
    assert jobs.get("jobs", "-l", "finetune.dev/stage=train") == []


def test_malformed_data_names_the_row(jobs: Jobs, s3: Any) -> None:
    good = '{"input_text": "a", "target_text": "b"}\n'
    s3.put_object(Bucket=jobs.bucket, Key="data/broken.jsonl", Body=(good * 2 + '{"input_text": \n').encode())
    jobs.apply("malformed", dataset__train=[{"source": f"s3://{jobs.bucket}/data/broken.jsonl"}])

    status = jobs.wait_for("malformed", "Failed", timeout_seconds=90)

    assert status["reason"] == "DataError"
    assert "broken.jsonl" in status["message"]
    assert "3" in status["message"]


def test_wrong_credentials_name_the_secret(jobs: Jobs) -> None:
    wrong = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "wrong-keys"},
        "stringData": {"AWS_ACCESS_KEY_ID": "AKIDWRONG", "AWS_SECRET_ACCESS_KEY": "not-the-secret-canary"},
    }
    jobs.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(wrong))
    jobs.apply("denied", output__store__credentialsSecretRef={"name": "wrong-keys"})

    status = jobs.wait_for("denied", "Failed", timeout_seconds=90)

    assert status["reason"] == "StorageDenied"
    assert "wrong-keys" in status["message"]
    assert "not-the-secret-canary" not in str(status)


@pytest.mark.parametrize(
    ("changes", "kind", "name"),
    [
        pytest.param(
            {"output__store__credentialsSecretRef": {"name": "later"}}, "Secret", "later", id="Secret"
        ),
        pytest.param(
            {"dataset__train": [{"source": "configMap://later/a.jsonl"}]},
            "ConfigMap",
            "later",
            id="ConfigMap",
        ),
    ],
)
def test_a_missing_reference_is_pending_with_its_name_and_goes_on_once_it_exists(
    jobs: Jobs, changes: dict[str, Any], kind: str, name: str
) -> None:
    jobs.apply("waiting", training__maxSteps=3, **changes)
    status = jobs.wait_until("waiting", "waiting for it", lambda s: s.get("reason") == "MissingReference", 15)

    assert status["phase"] in ("Pending", "Preparing")
    assert f"{kind} '{name}' not found in namespace '{jobs.namespace}'" in status["message"]

    jobs.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(referenced(jobs, kind, name)))
    jobs.wait_until("waiting", "prepared", lambda s: s.get("provenance", {}).get("rowsUsed", 0) > 0, 150)


def referenced(jobs: Jobs, kind: str, name: str) -> dict[str, Any]:
    row = '{"input_text": "Where is my parcel?", "target_text": "On its way."}\n'
    store = jobs.environment.store
    data = {
        "Secret": {
            "AWS_ACCESS_KEY_ID": store.access_key_id,
            "AWS_SECRET_ACCESS_KEY": store.secret_access_key,
        },
        "ConfigMap": {"a.jsonl": row * 8},
    }
    field = "stringData" if kind == "Secret" else "data"
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, field: data[kind]}


def test_a_job_that_no_node_can_take_says_what_the_scheduler_says(jobs: Jobs) -> None:
    jobs.apply("huge", parallelism__gpusPerNode=64)

    status = jobs.wait_until("huge", "unschedulable", lambda s: s.get("reason") == "Unschedulable", 60)

    assert "Insufficient finetune.dev/fake-gpu" in status["message"]
