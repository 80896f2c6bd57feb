"""`finetune pull`: which folder of the store, with whose keys, and how it gets into place whole or not at all."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from finetune_api.layout import ARTIFACT_MANIFEST_NAME, MODEL_CARD_NAME, ArtifactManifest
from finetune_api.status import ConditionStatus, ConditionType
from finetune_cli.cluster import Job
from finetune_cli.downloads import download_files
from finetune_cli.errors import CommandError
from finetune_cli.folders import Staging, check_free_disk, check_replaceable, is_in_place
from finetune_cli.storage import ModelStore, SecretReader, StoreDenied, find_credentials


@dataclass(frozen=True)
class Request:
    """What the user asked for; None means: decide."""

    merged: bool | None
    target: Path | None
    endpoint: str | None
    parallel: int


@dataclass(frozen=True)
class Artifact:
    """One finished folder of the store."""

    uri: str
    is_merged: bool
    manifest_sha256: str | None

    @property
    def title(self) -> str:
        return "merged model" if self.is_merged else "adapter"


@dataclass(frozen=True)
class Pulled:
    """How it ended."""

    sentence: str


class Report(Protocol):
    """Whoever shows the progress."""

    def begin(self, title: str, total_bytes: int, done_bytes: int) -> None:
        """Say what is fetched, and how much of it is here already."""

    def advance(self, size_bytes: int) -> None:
        """Say that bytes arrived (or, negative, are fetched again)."""


def pull_model(job: Job, request: Request, read_secret: SecretReader, report: Report) -> Pulled:
    """Download and verify the job's model, then put it in place."""
    artifact = choose_artifact(job, request.merged)
    target = request.target or Path(job.name if artifact.is_merged else f"{job.name}-adapter")
    store, manifest_bytes = open_artifact(job, artifact, request, read_secret)
    manifest = parse_manifest(artifact, manifest_bytes)
    if is_in_place(target, manifest_bytes, manifest):
        return Pulled(
            f"The {artifact.title} of '{job.name}' is in {target} already; every file was verified again."
        )
    check_replaceable(target)
    staging = Staging.beside(target, manifest_bytes)
    files = [staging.partial_file(artifact.uri, entry) for entry in manifest.files]
    total = sum(entry.size_bytes for entry in manifest.files)
    missing = sum(part.length for file in files for part in file.missing_parts())
    check_free_disk(target, missing)
    report.begin(f"{artifact.title} of {job.name}", total, total - missing)
    download_files(store, files, report.advance, parallel=request.parallel)
    if (card := store.find_bytes(f"{artifact.uri}/{MODEL_CARD_NAME}")) is not None:
        staging.add_card(card)
    staging.put_in_place(target, manifest_bytes)
    return Pulled(
        f"{target}: the {artifact.title} of '{job.name}', {len(files)} files, SHA-256 of each verified."
    )


def choose_artifact(job: Job, merged: bool | None) -> Artifact:
    """Decide which folder is meant. Raises CommandError where the job has not made it (yet)."""
    outputs = job.status.outputs
    if not _is_true(job, ConditionType.SUCCEEDED):
        raise CommandError(_not_succeeded_sentence(job))
    is_merged = outputs.merged_uri is not None if merged is None else merged
    uri = outputs.merged_uri if is_merged else outputs.adapter_uri
    if uri is None and is_merged:
        raise CommandError(
            f"FineTuneJob '{job.name}' has no merged model (spec.output.merged.enabled is false, or spec.method.type "
            "cannot be merged). Pull the adapter: --adapter."
        )
    if uri is None:
        raise CommandError(
            f"FineTuneJob '{job.name}' has no adapter (spec.output.adapter is false, or spec.method.type is Full). "
            "Pull the merged model: --merged."
        )
    # The status holds one digest, that of the model that ships: merged where there is one.
    is_main = is_merged or outputs.merged_uri is None
    return Artifact(uri.rstrip("/"), is_merged, outputs.manifest_digest if is_main else None)


def _is_true(job: Job, condition: ConditionType) -> bool:
    return any(c.type == condition and c.status is ConditionStatus.TRUE for c in job.status.conditions)


def _not_succeeded_sentence(job: Job) -> str:
    status = job.status
    phase = status.phase.value if status.phase else "not looked at by an operator yet"
    why = ": ".join(part for part in (status.reason, status.message) if part)
    state = f"FineTuneJob '{job.name}' in namespace '{job.namespace}' has not succeeded; it is {phase}"
    if _is_true(job, ConditionType.FAILED):
        return f"{state}. {why} There is no model to pull."
    wait = f"kubectl -n {job.namespace} wait --for=condition=Finished --timeout=-1s ftj/{job.name}"
    return f"{state} ({why or 'no reason given'}). Wait for it: {wait}"


def open_artifact(
    job: Job, artifact: Artifact, request: Request, read_secret: SecretReader
) -> tuple[ModelStore, bytes]:
    """Read the folder's manifest with the first keys that the store accepts."""
    refusals: list[str] = []
    for credentials in find_credentials(job.store, job.namespace, read_secret):
        store = ModelStore(
            job.store, credentials, endpoint=request.endpoint, connections=request.parallel + 1
        )
        try:
            return store, store.read_bytes(f"{artifact.uri}/{ARTIFACT_MANIFEST_NAME}")
        except StoreDenied as error:
            refusals.append(str(error))
    raise CommandError(_no_keys_sentence(job, refusals))


def _no_keys_sentence(job: Job, refusals: list[str]) -> str:
    remedy = (
        "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, to keys that may read the store."
    )
    if refusals:
        return " ".join([*refusals, remedy])
    reference = job.store.credentials_secret_ref
    secret = f"Secret '{reference.name}' in namespace '{job.namespace}'" if reference else "no Secret"
    return f"No access keys: none in your environment, and {secret} is missing or not yours to read. {remedy}"


def parse_manifest(artifact: Artifact, content: bytes) -> ArtifactManifest:
    """Parse a manifest that is the one the operator recorded."""
    uri = f"{artifact.uri}/{ARTIFACT_MANIFEST_NAME}"
    digest = hashlib.sha256(content).hexdigest()
    if artifact.manifest_sha256 not in (None, digest):
        raise CommandError(
            f"{uri} is not the one the job wrote: its SHA-256 is {digest[:12]}…, status.outputs.manifestDigest is "
            f"{str(artifact.manifest_sha256)[:12]}…. Somebody replaced the model; run the job again."
        )
    try:
        return ArtifactManifest.model_validate_json(content, extra="ignore")
    except ValidationError as error:
        raise CommandError(
            f"{uri} is no manifest ({error.errors()[0]['msg']}). Run the job again."
        ) from error
