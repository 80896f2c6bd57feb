"""`spec.resumeFrom`: an earlier run whose newest checkpoint this run goes on from."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from finetune_api.base import MESSAGE_KEY, ApiModel

RUN_ID_PATTERN = r"^[a-z]([-a-z0-9]*[a-z0-9])?-[0-9a-f]{8}$"


class ResumeFrom(ApiModel):
    """An earlier run of the same output.uri."""

    run: Annotated[str, StringConstraints(pattern=RUN_ID_PATTERN, max_length=51)] = Field(
        json_schema_extra={
            MESSAGE_KEY: "resumeFrom.run must be <name>-<first eight of the uid>, the name of a folder below <output.uri>/runs/"
        },
        description="run is the name of its folder below <output.uri>/runs/: <name>-<first eight characters of its uid>. Immutable.",
    )
