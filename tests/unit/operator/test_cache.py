"""The operator's memory: what counts as news, and what is dropped."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from finetune_operator.cache import Cache
from finetune_operator.job_resource import JobKey, UnreadableStatus
from tests.builders.jobs import make_manifest
from tests.unit.operator.builders import NOW, make_child, make_report

KEY = JobKey("ml", "bot")
CREATED = "2026-01-01T00:00:00Z"
FINISHED: dict[str, Any] = {
    "observedGeneration": 1,
    "conditions": [
        {"type": "Finished", "status": "True", "reason": "Succeeded", "lastTransitionTime": CREATED}
    ],
}


def job_body(version: int = 1, uid: str = "u", status: dict[str, Any] | None = None) -> dict[str, Any]:
    metadata = {
        "uid": uid,
        "resourceVersion": str(version),
        "generation": 1,
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }
    manifest = make_manifest("bot", "ml")
    return {**manifest, "metadata": manifest["metadata"] | metadata, "status": status or {}}


def child_body(uid: str = "j", owner: str = "u") -> dict[str, Any]:
    labels = {"finetune.dev/stage": "train", "finetune.dev/attempt": "1"}
    owner_reference = {"kind": "FineTuneJob", "name": "bot", "uid": owner, "controller": True}
    metadata = {
        "name": "bot-train-1",
        "namespace": "ml",
        "uid": uid,
        "labels": labels,
        "creationTimestamp": CREATED,
    }
    return {"metadata": {**metadata, "ownerReferences": [owner_reference]}}


def pod_body(uid: str = "p", job: str = "j", phase: str = "Running") -> dict[str, Any]:
    owner = {"kind": "Job", "name": "bot-train-1", "uid": job, "controller": True}
    metadata = {
        "name": uid,
        "namespace": "ml",
        "uid": uid,
        "ownerReferences": [owner],
        "creationTimestamp": CREATED,
    }
    return {"metadata": metadata, "status": {"phase": phase}}


@pytest.fixture
def cache() -> Cache:
    """A job with a child and its pod."""
    cache = Cache()
    cache.observe_finetune_job(job_body())
    cache.observe_child_job(child_body())
    cache.observe_pod(pod_body())
    return cache


def test_children_are_found_by_their_owners_uid(cache: Cache) -> None:
    observed = cache.observed("u")

    assert [job.uid for job in observed.jobs] == ["j"]
    assert [pod.uid for pod in observed.pods] == ["p"]
    reporter = cache.reporter("p")
    assert reporter is not None
    assert (reporter.pod.uid, reporter.job_uid, reporter.owner_uid) == ("p", "j", "u")


def test_an_older_version_than_ours_is_no_news(cache: Cache) -> None:
    """Our own write's answer arrives before the watch delivers what was before it."""
    cache.observe_finetune_job(job_body(version=20))

    assert cache.observe_finetune_job(job_body(version=9)) is None
    assert cache.observe_finetune_job(job_body(version=20)) is None
    assert cache.observe_finetune_job(job_body(version=100)) == KEY


def test_a_job_of_the_same_name_but_another_uid_replaces_the_old_one(cache: Cache) -> None:
    assert cache.observe_finetune_job(job_body(version=1, uid="new")) == KEY

    cache.forget_finetune_job(KEY, "u")
    job = cache.job(KEY)
    assert job is not None
    assert job.uid == "new"


def test_a_finished_job_is_forgotten_with_its_family(cache: Cache) -> None:
    assert cache.observe_finetune_job(job_body(2, status=FINISHED)) is None

    assert cache.job(KEY) is None
    assert cache.observed("u").jobs == ()
    assert cache.observe_child_job(child_body()) is None
    assert cache.observe_pod(pod_body()) is None
    assert cache.reporter("p") is None


def test_a_stale_event_does_not_wake_a_finished_job(cache: Cache) -> None:
    cache.observe_finetune_job(job_body(9, status=FINISHED))

    assert cache.observe_finetune_job(job_body(8)) is None
    assert cache.job(KEY) is None


def test_a_finished_job_whose_spec_changed_is_live_again(cache: Cache) -> None:
    changed = job_body(3, status=FINISHED)
    changed["metadata"]["generation"] = 2

    assert cache.observe_finetune_job(changed) == KEY


def test_a_status_of_another_operators_making_is_not_guessed_at() -> None:
    with pytest.raises(UnreadableStatus):
        Cache().observe_finetune_job(job_body(status={"phase": "Dreaming"}))


def test_the_pods_of_a_deleted_job_stay_until_they_are_gone(cache: Cache) -> None:
    assert cache.forget_child_job(child_body()) == KEY
    assert [pod.uid for pod in cache.observed("u").pods] == ["p"]

    assert cache.observe_pod(pod_body(phase="Failed")) == KEY
    assert cache.forget_pod(pod_body()) == KEY
    assert [pod.is_gone for pod in cache.observed("u").pods] == [True]
    assert cache.reporter("p") is None


def test_what_a_deleted_pod_left_is_kept_until_status_holds_it(cache: Cache) -> None:
    cache.forget_pod(pod_body(phase="Failed"))
    running = {"attempts": [{"number": 1, "stage": "train", "jobUID": "j", "outcome": "Running"}]}
    closed = {"attempts": [{"number": 1, "stage": "train", "jobUID": "j", "outcome": "Failed"}]}

    cache.observe_finetune_job(job_body(6, status=running))
    kept = cache.observed("u").pods
    cache.observe_finetune_job(job_body(7, status=closed))

    assert [pod.phase for pod in kept] == ["Failed"]
    assert cache.observed("u").pods == ()


def test_a_pod_that_has_not_changed_is_no_news(cache: Cache) -> None:
    assert cache.observe_pod(pod_body()) is None
    assert cache.observe_pod(pod_body(phase="Failed")) == KEY


def test_a_report_is_kept_until_it_proves_unacceptable(cache: Cache) -> None:
    report = make_report(make_child(), 3)

    assert cache.note_report("u", report) == KEY
    assert cache.observed("u").report == report
    cache.forget_report("u")
    assert cache.observed("u").report is None
    assert cache.note_report("unknown", report) is None


def test_what_a_listing_no_longer_holds_is_dropped_unless_it_is_new(cache: Cache) -> None:
    cache.retain({"u"}, created_before=NOW - timedelta(days=400))
    assert cache.observed("u").jobs != (), "created after the listing began"

    cache.retain({"u"}, created_before=NOW + timedelta(days=4000))
    assert cache.observed("u").jobs == ()
    assert cache.job(KEY) is not None

    cache.retain(set(), created_before=NOW + timedelta(days=4000))
    assert cache.job(KEY) is None


def with_ttl(version: int, status: dict[str, Any]) -> dict[str, Any]:
    body = job_body(version, status={**status, "completionTime": CREATED, "phase": "Succeeded"})
    return {**body, "spec": {**body["spec"], "ttlSecondsAfterFinished": 60}}


def test_a_finished_job_with_a_time_to_live_is_remembered_with_its_version(cache: Cache) -> None:
    assert cache.observe_finetune_job(with_ttl(5, FINISHED)) == KEY

    expiry = cache.expiry(KEY)
    assert expiry is not None
    assert (expiry.at.isoformat(), expiry.uid, expiry.resource_version) == (
        "2026-01-01T00:01:00+00:00",
        "u",
        "5",
    )

    cache.forget_finetune_job(KEY, "u")
    assert cache.expiry(KEY) is None


def test_finished_jobs_are_counted_with_the_live_ones(cache: Cache) -> None:
    assert dict(cache.count_by_phase()) == {("ml", "Pending"): 1}

    cache.observe_finetune_job(with_ttl(5, FINISHED))

    assert dict(cache.count_by_phase()) == {("ml", "Succeeded"): 1}


def test_a_child_that_claims_an_owner_in_another_namespace_is_a_stranger(cache: Cache) -> None:
    forged = child_body("forged")
    forged["metadata"]["namespace"] = "theirs"

    assert cache.observe_child_job(forged) is None
    assert [job.uid for job in cache.observed("u").jobs] == ["j"]
