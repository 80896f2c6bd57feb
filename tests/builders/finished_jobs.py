"""FineTuneJobs that have ended, and the folders that a successful one leaves in its store."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from finetune_api.layout import ARTIFACT_MANIFEST_NAME, ArtifactManifest, FileEntry
from finetune_api.status import Condition, ConditionStatus, ConditionType, FineTuneJobStatus, Outputs, Phase

NOW = "2026-01-02T03:04:05Z"


def make_manifest_bytes(files: Mapping[str, bytes], kind: str = "merged") -> bytes:
    """The `finetune-manifest.json` of a folder with these files."""
    entries = tuple(
        FileEntry(name=name, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        for name, content in sorted(files.items())
    )
    manifest = ArtifactManifest(kind=kind, files=entries)
    return (manifest.model_dump_json(indent=2) + "\n").encode()


def make_artifact(files: Mapping[str, bytes], kind: str = "merged") -> dict[str, bytes]:
    """The files and their manifest."""
    return {**files, ARTIFACT_MANIFEST_NAME: make_manifest_bytes(files, kind)}


def make_status(
    phase: Phase = Phase.SUCCEEDED, outputs: Outputs | None = None, **changes: Any
) -> FineTuneJobStatus:
    """A status as the operator writes it in that phase."""
    ended = {Phase.SUCCEEDED: ConditionType.SUCCEEDED, Phase.FAILED: ConditionType.FAILED}.get(phase)
    types = [ended, ConditionType.FINISHED] if ended else [ConditionType.RUNNING]
    conditions = [
        Condition(type=each, status=ConditionStatus.TRUE, reason="Test", last_transition_time=NOW)
        for each in types
    ]
    return FineTuneJobStatus(phase=phase, conditions=conditions, outputs=outputs or Outputs(), **changes)
