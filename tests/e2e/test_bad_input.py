"""What a user gets wrong is said in status, in a sentence with the next action, before any train pod exists."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from tests.e2e.deadlines import wait_until
from tests.e2e.jobs import Jobs, JsonObject
from tests.e2e.side_by_side import side_by_side


def rows(*rows: object) -> list[JsonObject]:
    return [{"inline": list(rows)}]


FAILS: list[tuple[str, JsonObject, str, str]] = [
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
@side_by_side
def test_a_job_that_cannot_work_fails_before_a_train_pod_exists(
    jobs: Jobs, changes: JsonObject, reasons: str, words: str
) -> None:
    jobs.apply("wrong", **changes)

    status = jobs.wait_for("wrong", "Failed", timeout_seconds=90)

    assert status["reason"] in reasons.split("|")
    assert words in status["message"]
    assert {attempt["stage"] for attempt in status["attempts"]} == {"prepare"}
    assert jobs.get("jobs", "finetune.dev/stage=train") == []


def lines(*rows: object) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


GOOD = {"input_text": "Where is my parcel?", "target_text": "On its way."}
# File name, its bytes, what else the job says, and the sentence that ends it.
BROKEN_DATA: dict[str, tuple[str, bytes, JsonObject, str]] = {
    "a truncated gzip file": ("cut.jsonl.gz", gzip.compress(lines(*[GOOD] * 500))[:-30], {}, "gzip"),
    "an error page instead of data": (
        "page.jsonl", b"<!DOCTYPE html>\n<html><body>503 Service Unavailable</body></html>\n", {}, "HTML",
    ),
    "a column that no row has": (
        "columns.csv", b"question,reply\nWhere?,Here.\n", {"columns": {"target": "answer"}, "format": "InputTarget"}, "answer",
    ),
    "an unknown role": (
        "role.jsonl", lines({"messages": [{"role": "wizard", "content": "hi"}, {"role": "assistant", "content": "yo"}]}), {}, "wizard",
    ),
    "a label that is no number": ("labels.jsonl", b'{"text": "good", "label": "a"}\n{"text": "bad", "label": NaN}\n', {}, "NaN"),
    "rows that are all too long": (
        "long.jsonl", lines({"input_text": "word " * 3000, "target_text": "ok"}), {}, "maxLength",
    ),
    "an unreadable encoding": ("bytes.jsonl", b'{"input_text": "\xff\xfe\x81", "target_text": "\x81\x39"}\n', {}, "UTF-8"),
    "a file without rows": ("empty.jsonl", b"\n\n", {}, "blank lines"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "source", "words"), BROKEN_DATA.values(), ids=BROKEN_DATA.keys())
@side_by_side
def test_broken_data_end_in_their_own_sentence_and_no_train_job(
    jobs: Jobs, name: str, content: bytes, source: JsonObject, words: str
) -> None:
    uri = jobs.bucket.put(f"data/broken/{name}", content)
    jobs.apply("broken", dataset__train=[{"source": uri, **source}])

    status = jobs.wait_for("broken", "Failed", timeout_seconds=120)

    assert status["reason"] == "DataError"
    assert words in status["message"]
    assert name in status["message"]
    assert {attempt["stage"] for attempt in status["attempts"]} == {"prepare"}
    assert {attempt["exitCode"] for attempt in status["attempts"]} == {11}
    assert jobs.get("jobs", "finetune.dev/stage=train") == []


@side_by_side
def test_malformed_data_names_the_row(jobs: Jobs) -> None:
    good = '{"input_text": "a", "target_text": "b"}\n'
    source = jobs.bucket.put("data/broken.jsonl", (good * 2 + '{"input_text": \n').encode())
    jobs.apply("malformed", dataset__train=[{"source": source}])

    status = jobs.wait_for("malformed", "Failed", timeout_seconds=90)

    assert status["reason"] == "DataError"
    assert "broken.jsonl" in status["message"]
    assert "3" in status["message"]


@side_by_side
def test_wrong_credentials_name_the_secret(jobs: Jobs) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "AKIDWRONG", "AWS_SECRET_ACCESS_KEY": "not-the-secret-canary"}
    jobs.create(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "wrong-keys"}, "stringData": keys}
    )
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
@side_by_side
def test_a_missing_reference_is_pending_with_its_name_and_goes_on_once_it_exists(
    jobs: Jobs, changes: JsonObject, kind: str, name: str
) -> None:
    jobs.apply("waiting", stopAfter="Prepare", training__maxSteps=3, **changes)
    status = jobs.wait_until("waiting", "waiting for it", lambda s: s.get("reason") == "MissingReference", 15)

    assert status["phase"] in ("Pending", "Preparing")
    assert f"{kind} '{name}' not found in namespace '{jobs.namespace}'" in status["message"]

    jobs.create(referenced(jobs, kind, name))
    assert jobs.wait_for("waiting", "Succeeded", 150)["reason"] == "StoppedAfterPrepare"


def referenced(jobs: Jobs, kind: str, name: str) -> JsonObject:
    row = '{"input_text": "Where is my parcel?", "target_text": "On its way."}\n'
    store = jobs.environment.store
    data: dict[str, dict[str, Any]] = {
        "Secret": {
            "AWS_ACCESS_KEY_ID": store.access_key_id,
            "AWS_SECRET_ACCESS_KEY": store.secret_access_key,
        },
        "ConfigMap": {"a.jsonl": row * 8},
    }
    field = "stringData" if kind == "Secret" else "data"
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, field: data[kind]}


@side_by_side
def test_a_job_that_no_node_can_take_says_what_the_scheduler_says(jobs: Jobs) -> None:
    jobs.apply("huge", parallelism__gpusPerNode=64)

    status = jobs.wait_until("huge", "unschedulable", lambda s: s.get("reason") == "Unschedulable", 60)

    assert "Insufficient finetune.dev/fake-gpu" in status["message"]


@side_by_side
def test_an_image_that_cannot_be_pulled_is_said_soon_and_another_one_can_be_set(jobs: Jobs) -> None:
    nowhere = "localhost/no-such-image:1"
    jobs.apply("mistyped", image=nowhere)
    jobs.apply("given-up", image=nowhere, failurePolicy__pendingDeadlineSeconds=20)
    wait_until(lambda: jobs.pods("mistyped"), bool, "the train pod of mistyped is there", 90)

    status = jobs.wait_until(
        "mistyped", "waiting for its image", lambda s: s.get("reason") == "ImagePull", 10
    )
    assert (status["phase"], nowhere in status["message"]) == ("Queued", True)

    jobs.patch("mistyped", image=jobs.environment.images["trainer"])
    jobs.wait_until("mistyped", "training", lambda s: s.get("progress", {}).get("step", 0) > 0)
    assert jobs.wait_for("given-up", "Failed", 90)["reason"] == "PendingDeadlineExceeded"
