"""`finetune preview-data`: what the prepare stage would make of some files, on this machine, without a cluster.

The trainer's own code does it, in a process of its own: this command never imports the trainer.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import ValidationError

from finetune_api import GROUP, KIND
from finetune_api.spec import FineTuneJobSpec
from finetune_cli.errors import CommandError

# What of the extra [prepare] is not in [cli]: without these the trainer's code does not start.
_NEEDED = ("jinja2", "numpy", "pyarrow", "tokenizers", "trl")
# A job may leave spec.output to the installation; nothing is written there.
_ANY_OUTPUT = {"uri": "s3://preview/preview"}


@dataclass(frozen=True)
class Preview:
    """What the user asked for; None means: as the job says, or the default."""

    files: tuple[Path, ...]
    model: str | None
    job: Path | None
    format: str | None
    max_length: int | None
    html: Path
    json: Path | None


def preview_data(preview: Preview) -> int:
    """Show what these files become, and write the report; the exit code."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise CommandError(
            f"`finetune preview-data` prepares the data here and {', '.join(missing)} is not installed. "
            "Install what it needs: pip install 'finetune-operator[cli,prepare]'."
        )
    spec = None if preview.job is None else load_spec(preview.job)
    result = subprocess.run(
        [sys.executable, "-m", "finetune_trainer.preview", *_arguments(preview)],
        input=None if spec is None else spec.model_dump_json(exclude_unset=True).encode(),
        check=False,
    )
    return result.returncode


def _arguments(preview: Preview) -> Iterator[str]:
    options: Mapping[str, object | None] = {
        "--model": preview.model,
        "--format": preview.format,
        "--max-length": preview.max_length,
        "--html": preview.html,
        "--json": preview.json,
    }
    for option, value in options.items():
        if value is not None:
            # In one word, so that a value may begin with a dash.
            yield f"{option}={value}"
    if preview.job is not None:
        yield "--spec-from-stdin"
    yield "--"
    yield from (str(file) for file in preview.files)


# --- the job ---------------------------------------------------------------------------------------------------


def load_spec(path: Path) -> FineTuneJobSpec:
    """Read the FineTuneJob of a YAML file. Raises CommandError that says what is wrong with it."""
    job = _only_job(path, _documents(path))
    spec = job.get("spec")
    if not isinstance(spec, dict):
        raise CommandError(f"The FineTuneJob of {path} has no spec. Name a file that `kubectl apply` takes.")
    try:
        return FineTuneJobSpec.model_validate({"output": _ANY_OUTPUT, **spec})
    except ValidationError as error:
        raise CommandError(f"{path}: {_first_problem(error)}") from error


def _first_problem(error: ValidationError) -> str:
    first = error.errors()[0]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
    # The pattern itself says nothing to people.
    told = " is not of the form that it must have" if "pattern" in first["type"] else f": {first['msg']}"
    value = "" if isinstance(first["input"], dict | list) else f" {first['input']!r}"
    return (
        f"spec{place}{value}{told}. Correct it; `kubectl explain finetunejob.spec{_schema_path(first['loc'])}` "
        "describes it."
    )


def _schema_path(place: tuple[int | str, ...]) -> str:
    return "".join(f".{part}" for part in place if isinstance(part, str))


def _documents(path: Path) -> list[object]:
    try:
        return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise CommandError(f"{path} cannot be read ({error.strerror}). Name the job's YAML file.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CommandError(f"{path} is not YAML: {error}") from error


def _only_job(path: Path, documents: list[object]) -> Mapping[str, object]:
    jobs = [each for each in documents if isinstance(each, dict) and _is_job(each)]
    if len(jobs) != 1:
        found = "no FineTuneJob" if not jobs else f"{len(jobs)} FineTuneJobs"
        raise CommandError(f"{path} holds {found}. Name a file with the one whose data are meant.")
    return jobs[0]


def _is_job(document: Mapping[str, object]) -> bool:
    return document.get("kind") == KIND and str(document.get("apiVersion")).startswith(f"{GROUP}/")
