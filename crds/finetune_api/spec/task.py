"""`spec.task`: what the tuned model does."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import StringConstraints


class Task(StrEnum):
    """What the model is trained for."""

    CAUSAL_LM = "CausalLM"
    SEQUENCE_CLASSIFICATION = "SequenceClassification"


ClassLabel = Annotated[str, StringConstraints(min_length=1, max_length=128)]
