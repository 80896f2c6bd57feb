"""Where everything stands in the object store, and the manifests that make it trustworthy.

`output.uri` is the model's prefix; runs live below it, so re-applying a job is a new run beside the old one.
Readers trust manifests only: data objects are written first, the manifest last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, StringConstraints

from finetune_api.base import ApiModel

CHECKPOINT_MANIFEST_NAME = "manifest.json"
ARTIFACT_MANIFEST_NAME = "finetune-manifest.json"
# Of adapter/ and merged/, beside the model; in no manifest, because equal models may have different cards.
MODEL_CARD_NAME = "README.md"
CURRENT_POINTER_NAME = "current.json"

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class RunLayout:
    """URIs of one run. All are `s3://bucket/key` without a trailing slash."""

    output_uri: str
    name: str
    uid: str
    shared_cache_uri: str | None = None

    @property
    def root(self) -> str:
        """The model's prefix, shared by all its runs."""
        return self.output_uri.rstrip("/")

    @property
    def run_id(self) -> str:
        """`<name>-<first eight of the uid>`: unique also after delete and re-apply."""
        return f"{self.name}-{self.uid[:8]}"

    @property
    def runs_uri(self) -> str:
        """Folder of all runs of this model."""
        return f"{self.root}/runs"

    @property
    def run_uri(self) -> str:
        """The run's folder."""
        return f"{self.runs_uri}/{self.run_id}"

    @property
    def run_file_uri(self) -> str:
        """`run.json`: what prepare resolved (RunFile of the trainer), read by train and export."""
        return f"{self.run_uri}/run.json"

    @property
    def checkpoints_uri(self) -> str:
        """Folder of all checkpoints."""
        return f"{self.run_uri}/checkpoints"

    def checkpoint_uri(self, step: int) -> str:
        """Folder of the checkpoint taken after `step` optimizer steps; sorts by name as by number."""
        return f"{self.checkpoints_uri}/step-{step:08d}"

    def claim_uri(self, incarnation: int, name: str) -> str:
        """Object by which the first pod becomes the run's only writer, or says where it went on from."""
        return f"{self.claims_uri}/{incarnation:05d}/{name}"

    @property
    def claims_uri(self) -> str:
        """Folder of the claims."""
        return f"{self.run_uri}/claims"

    @property
    def trained_uri(self) -> str:
        """Folder with the state at the end of training: what export reads."""
        return f"{self.run_uri}/trained"

    @property
    def adapter_uri(self) -> str:
        """The adapter, as `PeftModel.from_pretrained` reads it."""
        return f"{self.run_uri}/adapter"

    @property
    def merged_uri(self) -> str:
        """The merged model, as `AutoModelForCausalLM.from_pretrained` reads it."""
        return f"{self.run_uri}/merged"

    @property
    def metrics_uri(self) -> str:
        """`metrics.jsonl`: one line an optimizer step."""
        return f"{self.run_uri}/metrics.jsonl"

    @property
    def data_report_uri(self) -> str:
        """`data-report.html`: what prepare found in the data, for people."""
        return f"{self.run_uri}/data-report.html"

    @property
    def data_report_json_uri(self) -> str:
        """`data-report.json`: the same for programs."""
        return f"{self.run_uri}/data-report.json"

    @property
    def current_uri(self) -> str:
        """Pointer to the newest run that succeeded."""
        return f"{self.root}/{CURRENT_POINTER_NAME}"

    @property
    def cache_uri(self) -> str:
        """What runs share: `output.cacheURI`, else a folder below the model's prefix."""
        return (self.shared_cache_uri or f"{self.root}/.cache").rstrip("/")

    def prepared_uri(self, digest: str) -> str:
        """Tokenised data, shared by all runs with the same data, tokenizer and settings."""
        return f"{self.cache_uri}/prepared/{digest}"

    def models_uri(self, digest: str) -> str:
        """A base model that was brought into the store, shared by all runs that start from it."""
        return f"{self.cache_uri}/models/{digest}"


class FileEntry(ApiModel):
    """One file of a manifest."""

    name: Annotated[
        str,
        StringConstraints(
            pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$", max_length=512
        ),
    ]
    size_bytes: Annotated[int, Field(ge=0)]
    sha256: Sha256


class ArtifactManifest(ApiModel):
    """`finetune-manifest.json` of adapter/ and merged/: every other file of the folder, sorted by name.

    It names no run: equal runs have equal models, and so equal digests.
    """

    schema_version: int = 1
    kind: str
    files: tuple[FileEntry, ...]


class CurrentPointer(ApiModel):
    """`current.json`: the newest run that succeeded."""

    schema_version: int = 1
    run: str
    job_uid: str
    adapter_uri: str | None = None
    merged_uri: str | None
    manifest_digest: Sha256
    completed: str
