"""Reads the job file that the operator mounted: the one place where the trainer parses its configuration."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from finetune_api.job_file import JobFile
from finetune_trainer.errors import UserError


def load_job(path: Path) -> JobFile:
    """Parse the job file. Raises UserError that names the file and each field that does not fit."""
    try:
        return JobFile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(
            f"The job file {path} cannot be read ({error.strerror}). Give its path with --job; "
            "in a pod the operator mounts it."
        ) from error
    except ValidationError as error:
        raise UserError(
            f"The job file {path} does not fit this trainer image: {_problems(error)}. "
            "Use operator and trainer images of the same release."
        ) from error


def _problems(error: ValidationError) -> str:
    # `include_input=False`: a job file carries no secrets, but a wrong one might.
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    fields = [".".join(str(part) for part in problem["loc"]) or "file" for problem in problems]
    return "; ".join(f"{field}: {problem['msg']}" for field, problem in zip(fields, problems, strict=True))
