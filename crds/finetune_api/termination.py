"""The termination message: one JSON object a stage leaves behind; it becomes `status` even if no report arrived."""

from __future__ import annotations

from pydantic import ValidationError

from finetune_api.base import ApiModel
from finetune_api.wording import cut

MAX_TERMINATION_MESSAGE_BYTES = 4096


class PreparedFacts(ApiModel):
    """What prepare established."""

    dataset_digest: str
    model_digest: str
    rows_used: int
    rows_dropped: int
    total_steps: int
    rows_validation: int = 0
    rows_test: int = 0
    # The commit that a hub's model was read at.
    model_revision: str | None = None


class TrainedFacts(ApiModel):
    """Where training ended."""

    step: int
    loss: float | None = None
    checkpoint_uri: str | None = None


class ExportedFacts(ApiModel):
    """What export wrote and proved."""

    adapter_uri: str | None = None
    merged_uri: str | None = None
    manifest_digest: str
    merge_max_logit_difference: float | None = None


class TerminationMessage(ApiModel):
    """Why the stage ended, in one sentence with the next action, and its outputs."""

    schema_version: int = 1
    reason: str
    message: str
    step: int | None = None
    # The process, of several, that failed first.
    rank: int | None = None
    prepared: PreparedFacts | None = None
    trained: TrainedFacts | None = None
    exported: ExportedFacts | None = None

    def encode(self) -> str:
        """JSON of at most 4,096 bytes, the kubelet's limit: the sentence is cut, never the facts."""
        encoded, length = self._json(), len(self.message)
        while len(encoded.encode()) > MAX_TERMINATION_MESSAGE_BYTES and length:
            length = length * 15 // 16
            encoded = self.model_copy(update={"message": cut(self.message, length)})._json()
        return encoded

    def _json(self) -> str:
        return self.model_dump_json(exclude_none=True)


def parse_termination_message(text: str | None) -> TerminationMessage | None:
    """The message, or None where the container left none or something else (an OOM-killed one leaves nothing)."""
    try:
        return TerminationMessage.model_validate_json(text or "")
    except ValidationError:
        return None
