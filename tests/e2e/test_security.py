"""What was seen of every container, object and log of this run: no privilege, no violation, and no secret anywhere.

These come last, so that all that the other tests did is seen. The kernel of the machine is asked, not the containers.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import pytest

from examples.quickstart.environment import Environment
from examples.quickstart.installation import NAMESPACE
from tests.e2e.bucket import Bucket
from tests.e2e.evidence import Evidence, Process
from tests.e2e.jobs import PATIENCE, Jobs, JsonObject
from tests.e2e.nodes import STATE
from tests.e2e.side_by_side import OpenJobs

PARTS = {"operator", "prepare", "train", "export", "cleanup"}
STANDARD = "pod-security.kubernetes.io"


@pytest.fixture(scope="module")
def seen(environment: Environment, evidence: Evidence, open_jobs: OpenJobs) -> Evidence:
    """What there is by now; a whole run is added where the tests before did not do enough."""
    if not parts(evidence) >= PARTS:
        with open_jobs() as jobs:
            run_every_stage(jobs)
    evidence.collect(environment, NAMESPACE)
    return evidence


def run_every_stage(jobs: Jobs) -> None:
    jobs.apply("whole", deletionPolicy="Delete")
    jobs.wait_for("whole", "Succeeded")
    jobs.kubectl("delete", "ftj", "whole", "--wait", PATIENCE)


def parts(evidence: Evidence) -> set[str]:
    return {process.part for process in evidence.processes}


def test_no_process_of_any_stage_or_of_the_operator_has_a_privilege(seen: Evidence) -> None:
    assert parts(seen) >= PARTS
    assert [process.argv for process in seen.processes if not is_restricted(process)] == []


def is_restricted(process: Process) -> bool:
    status = process.status
    return (
        "0" not in status["Uid"].split()
        and "0" not in status["Gid"].split()
        and all(int(status[name], 16) == 0 for name in ("CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd"))
        and (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        and process.root_is_read_only
    )


@pytest.mark.usefixtures("seen")
def test_no_pod_or_workload_violates_the_restricted_standard() -> None:
    created = [entry for entry in read_audit_log() if is_creation_of_ours(entry)]

    assert {entry["objectRef"]["resource"] for entry in created} == {"pods", "jobs", "deployments"}
    pods = [entry for entry in created if entry["objectRef"]["resource"] == "pods"]
    assert {entry["annotations"].get(f"{STANDARD}/enforce-policy") for entry in pods} == {"restricted:latest"}
    assert [
        entry for entry in created if f"{STANDARD}/audit-violations" in entry.get("annotations", {})
    ] == []
    refused = [entry["responseStatus"].get("message", "") for entry in created]
    assert [message for message in refused if "PodSecurity" in message] == []


def read_audit_log() -> Iterator[JsonObject]:
    with STATE.audit_log.open() as lines:
        for line in lines:
            yield json.loads(line)


def is_creation_of_ours(entry: JsonObject) -> bool:
    target = entry.get("objectRef", {})
    return (
        entry["verb"] == "create"
        and target.get("resource") in ("pods", "jobs", "deployments")
        and "subresource" not in target
        and (
            target.get("namespace", "").startswith("e2e-")
            or target.get("namespace") in (NAMESPACE, "quickstart")
        )
    )


def test_no_secret_stands_anywhere_but_in_its_file(
    seen: Evidence, environment: Environment, bucket: Bucket
) -> None:
    secrets = set(seen.secrets.values())
    assert environment.store.secret_access_key in secrets, "the search knows what was mounted"
    assert any(where.endswith("progress/token") for where in seen.secrets)

    assert [where for where, text in everything(seen, bucket) if holds_any(text, secrets)] == []


def everything(seen: Evidence, bucket: Bucket) -> Iterator[tuple[str, bytes]]:
    """Objects, events, status, logs; command lines and environments; what is in the store."""
    for where, text in seen.texts.items():
        yield where, text.encode()
    for process in seen.processes:
        yield f"process {process.argv}", " ".join(process.argv).encode() + b"\0" + process.environment
    for name in (each["Name"] for each in bucket.client.list_buckets()["Buckets"]):
        yield from Bucket(bucket.client, name).contents()


def holds_any(text: bytes, secrets: set[str]) -> bool:
    forms = [form for secret in secrets for form in (secret.encode(), base64.b64encode(secret.encode()))]
    return any(form in text for form in forms)
