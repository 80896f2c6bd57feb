"""`job.json`: what the operator hands to a stage's pod, mounted at names.JOB_FILE_PATH."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.base import ApiModel
from finetune_api.layout import RunLayout
from finetune_api.names import Stage
from finetune_api.spec import FineTuneJobSpec

JOB_FILE_SCHEMA_VERSION = 1


class JobFile(ApiModel):
    """One attempt of one stage: the FineTuneJob as it stood when the attempt began."""

    schema_version: Literal[1] = 1
    name: str
    namespace: str
    uid: str
    stage: Stage
    attempt: Annotated[int, Field(ge=1)]
    trainer_image: str
    # The micro-batch is halved so many times, because earlier attempts ran out of memory.
    memory_backoff: Annotated[int, Field(ge=0, le=32)] = 0
    spec: FineTuneJobSpec

    @property
    def layout(self) -> RunLayout:
        """Where this run's objects stand in the store."""
        output = self.spec.output
        return RunLayout(output.uri, self.name, self.uid, shared_cache_uri=output.cache_uri)
