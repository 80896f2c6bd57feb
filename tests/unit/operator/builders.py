"""Facts as the reconciler sees them: a valid default, and only what a test is about is named."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from finetune_api.names import Stage, child_name
from finetune_api.progress import ProgressReport
from finetune_api.status import FineTuneJobStatus
from finetune_operator.job_resource import FineTuneJob, parse_job
from finetune_operator.observation import ContainerEnd, JobFacts, JobState, Observed, PodFacts, ReceivedReport
from finetune_operator.pace import Pace
from finetune_operator.plan import Plan
from finetune_operator.reconciler import reconcile
from finetune_operator.settings import PodSettings
from tests.builders.jobs import make_manifest

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
UID = "0123456789abcdef"
PACE = Pace(progress_interval=timedelta(seconds=10), first_restart_delay=timedelta(seconds=5))


def seconds_ago(seconds: float) -> datetime:
    """A time before NOW."""
    return NOW - timedelta(seconds=seconds)


def make_job(
    *, status: FineTuneJobStatus | None = None, generation: int = 1, deleting: bool = False, **changes: Any
) -> FineTuneJob:
    """A FineTuneJob named `bot` in namespace `ml`; `changes` as in `make_manifest`."""
    body = make_manifest("bot", "ml", **changes)
    body["metadata"] |= {
        "uid": UID,
        "resourceVersion": "7",
        "generation": generation,
        "creationTimestamp": "2026-01-01T11:00:00Z",
    }
    if deleting:
        body["metadata"]["deletionTimestamp"] = "2026-01-01T11:59:00Z"
    job = parse_job(body)
    return job.with_status(status) if status else job


def make_child(
    stage: Stage = Stage.PREPARE, attempt: int = 1, age_seconds: float = 60, **changes: Any
) -> JobFacts:
    """A child Job of `bot`."""
    name = child_name("bot", stage, attempt)
    facts = JobFacts(
        name=name,
        namespace="ml",
        uid=f"uid-of-{name}",
        owner_name="bot",
        owner_uid=UID,
        stage=stage,
        attempt=attempt,
        created=seconds_ago(age_seconds),
        state=JobState.ACTIVE,
    )
    return replace(facts, **changes)


def make_pod(child: JobFacts, age_seconds: float = 59, **changes: Any) -> PodFacts:
    """A pod of a child Job, not yet started."""
    facts = PodFacts(
        name=f"{child.name}-abcde",
        namespace="ml",
        uid=f"uid-of-pod-of-{child.name}",
        job_uid=child.uid,
        created=seconds_ago(age_seconds),
        node="node-1",
        image="trainer:1",
    )
    return replace(facts, **changes)


def make_running_pod(child: JobFacts, **changes: Any) -> PodFacts:
    """A pod whose container runs."""
    return make_pod(child, phase="Running", started=seconds_ago(50), **changes)


def make_ended_pod(
    child: JobFacts,
    exit_code: int = 0,
    *,
    message: dict[str, Any] | str | None = None,
    end_reason: str = "",
    ended_seconds_ago: float = 1,
    **changes: Any,
) -> PodFacts:
    """A pod whose container has ended."""
    text = message if isinstance(message, str) else json.dumps(message) if message else ""
    reason = end_reason or ("Completed" if exit_code == 0 else "Error")
    end = ContainerEnd(exit_code, reason, text, seconds_ago(ended_seconds_ago))
    phase = "Succeeded" if exit_code == 0 else "Failed"
    return make_pod(child, phase=phase, started=seconds_ago(50), end=end, **changes)


def make_report(
    child: JobFacts, step: int, *, received_seconds_ago: float = 0, **training: Any
) -> ReceivedReport:
    """A progress report of a child's pod."""
    report = ProgressReport.model_validate(
        {
            "trainerStatus": {"estimatedRemainingSeconds": 200},
            "finetune": {"step": step, "totalSteps": 90, "loss": 1.5, **training},
        }
    )
    return ReceivedReport(child.uid, report, seconds_ago(received_seconds_ago))


def observe(*facts: JobFacts | PodFacts | ReceivedReport, **more: Any) -> Observed:
    """Sort facts into an Observed."""
    return Observed(
        jobs=tuple(each for each in facts if isinstance(each, JobFacts)),
        pods=tuple(each for each in facts if isinstance(each, PodFacts)),
        report=next((each for each in facts if isinstance(each, ReceivedReport)), None),
        **more,
    )


def plan_for(job: FineTuneJob, observed: Observed, now: datetime = NOW) -> Plan:
    """Reconcile with the usual pace."""
    return reconcile(job, observed, now, PACE)


def status_after(
    job: FineTuneJob, *facts: JobFacts | PodFacts | ReceivedReport, now: datetime = NOW, **more: Any
) -> FineTuneJobStatus:
    """The status that these facts lead to."""
    return plan_for(job, observe(*facts, **more), now).status


def make_pod_settings(**changes: Any) -> PodSettings:
    """Settings of pods."""
    settings = PodSettings(
        trainer_image="trainer:2",
        prepare_image="trainer-prepare:2",
        image_pull_policy="IfNotPresent",
        image_pull_secrets=(),
        service_account=None,
        ca_config_map="finetune-operator-ca",
        progress_service_url="https://finetune-operator.finetune-system.svc:8443",
    )
    return replace(settings, **changes)


SUMMARY = "Prepared 480 of 483 rows (3 dropped: 3 too long), 61,000 tokens, 41 % learned; 30 steps an epoch."
PREPARED_FACTS = {
    "datasetDigest": "d",
    "modelDigest": "m",
    "rowsUsed": 480,
    "rowsDropped": 3,
    "totalSteps": 90,
}
PREPARED_MESSAGE = {"reason": "Prepared", "message": SUMMARY, "prepared": PREPARED_FACTS}
TRAINED_MESSAGE = {
    "reason": "Trained",
    "message": "All steps are done.",
    "step": 90,
    "trained": {
        "step": 90,
        "loss": 0.25,
        "checkpointUri": "s3://models/bot/runs/x/checkpoints/step-00000090",
    },
}
EXPORTED_MESSAGE = {
    "reason": "Exported",
    "message": "The model is exported.",
    "exported": {
        "adapterUri": "s3://a",
        "mergedUri": "s3://m",
        "manifestDigest": "e",
        "mergeMaxLogitDifference": 1e-6,
    },
}


def job_in_training(**changes: Any) -> tuple[FineTuneJob, JobFacts]:
    """A job whose train attempt 1 runs, as status says after it was prepared."""
    job, prepare, train = make_job(**changes), make_child(Stage.PREPARE), make_child(Stage.TRAIN)
    done = make_ended_pod(prepare, message=PREPARED_MESSAGE)
    status = status_after(job, prepare, done, train, make_running_pod(train))
    return job.with_status(status), train
