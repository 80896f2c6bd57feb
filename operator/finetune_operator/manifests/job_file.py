"""job.json: what the stage's process is to do.

Defaults of the spec are left out, and so is what is not used: a trainer image of an earlier version, which refuses
fields it does not know, can then read what a newer operator writes.
"""

from __future__ import annotations

import json

from finetune_api.job_file import JobFile
from finetune_api.names import Stage
from finetune_api.spec import Dataset, DataSource, FineTuneJobSpec
from finetune_operator.manifests.wanted import WantedAttempt

# Rows and templates may be larger than an annotation, in which the cleanup pod gets its file, can be.
_NO_DATASET = Dataset(train=[DataSource(inline=[{"text": "left out"}])])


def build_job_file(wanted: WantedAttempt) -> str:
    """Build the text of job.json."""
    job_file = JobFile(
        name=wanted.job.name,
        namespace=wanted.job.namespace,
        uid=wanted.job.uid,
        stage=wanted.stage,
        attempt=wanted.number,
        trainer_image=wanted.image,
        memory_backoff=wanted.memory_backoff,
        spec=_spec_for(wanted),
    )
    content = job_file.model_dump(mode="json", exclude_defaults=True)
    # Written as UTF-8: escaped, Chinese rows would take twice the room, and a ConfigMap holds 1 MiB.
    whole = {"schemaVersion": job_file.schema_version, **content}
    return json.dumps(whole, ensure_ascii=False, separators=(",", ":"))


def _spec_for(wanted: WantedAttempt) -> FineTuneJobSpec:
    if wanted.stage is not Stage.CLEANUP:
        return wanted.spec
    return wanted.spec.model_copy(update={"dataset": _NO_DATASET})
