"""`python -m finetune_trainer.preview`, what `finetune preview-data` runs: what prepare would make of files here.

The same code as the stage, from files to report; only where the files and the tokenizer come from differs, and no store
is needed. Exit code 0, or that of the failure's class with one sentence on standard error.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from finetune_api.spec import (
    DataFormat,
    Dataset,
    DataSource,
    FineTuneJobSpec,
    Method,
    MethodType,
    Model,
    Parallelism,
    Task,
    Training,
)
from finetune_trainer.data.digest import dataset_digest
from finetune_trainer.data.pipeline import DataRefused, DataRequest, prepare_data
from finetune_trainer.data.prepared import PreparedRows, split_file_name
from finetune_trainer.data.report import DataReport, render_html
from finetune_trainer.data.report.text import render_text
from finetune_trainer.data.row_sizes import RowSizes
from finetune_trainer.data.rows import Split
from finetune_trainer.data.sources import LocalFile, LocalSource, unpack_columnar
from finetune_trainer.data.sources.folders import readable_names
from finetune_trainer.data.tokenization import TOKENIZER_FILE, TOKENIZER_FILES
from finetune_trainer.data_request import build_data_request
from finetune_trainer.errors import DataError, StageError, UserError
from finetune_trainer.hubs import Hub, HubRepository, RepositoryAddress, RepositoryKind
from finetune_trainer.hubs.address import HubToken, is_hub_uri, parse_hub_uri
from finetune_trainer.hubs.retrying import Patience
from finetune_trainer.model_folder import CONFIG_FILE, DeclaredContext
from finetune_trainer.row_lengths import count_virtual_tokens
from finetune_trainer.run_report import report_with_forecast
from finetune_trainer.steps import decide_steps

DEFAULT_MODEL = "hf://Qwen/Qwen3-0.6B"
# Somebody waits at a terminal.
_PATIENCE_SECONDS = 20.0
_TOKEN_VARIABLES = {Hub.HUGGING_FACE: "HF_TOKEN", Hub.MODEL_SCOPE: "MODELSCOPE_API_TOKEN"}


@dataclass(frozen=True)
class Settings:
    """What of a job decides what its data become."""

    dataset: Dataset
    model: Model
    task: Task
    labels: tuple[str, ...]
    method: Method
    training: Training
    parallelism: Parallelism


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare, tell, write the report; return the exit code."""
    options = _parse(arguments)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    try:
        settings = decide_settings(options)
        report, refusal = preview(settings, options.files, options.model)
    except StageError as error:
        return _fail(error)
    _write_report(report, options)
    _tell(f"{render_text(report, colour=_has_colour())}\nReport: {options.html}\n")
    return _fail(refusal) if refusal else 0


def preview(
    settings: Settings, paths: Sequence[Path], model: str | None
) -> tuple[DataReport, DataError | None]:
    """Prepare the files in place of dataset.train; the report, and the refusal where the data are refused."""
    with tempfile.TemporaryDirectory(prefix="finetune-preview-") as folder:
        work = Path(folder)
        sources = local_sources(paths, settings.dataset.train, work / "sources")
        origin = model or settings.model.source
        tokenizer = find_tokenizer(origin, settings.model, work / "model")
        request = _request(settings, sources, origin, tokenizer)
        prepared = work / "prepared"
        prepared.mkdir()
        try:
            data = prepare_data(request, dataset_digest(request), prepared, work)
        except DataRefused as refused:
            return refused.report, refused
        rows = PreparedRows(prepared / split_file_name(Split.TRAIN))
        sizes = RowSizes(rows.lengths, rows.weights)
        plan = decide_steps(data.rows_per_epoch, settings.training)
        report = report_with_forecast(data.report, sizes, plan, settings.training, settings.parallelism)
        return report, None


def _request(
    settings: Settings, sources: tuple[LocalSource, ...], origin: str, tokenizer: Path
) -> DataRequest:
    return build_data_request(
        settings.dataset,
        settings.task,
        settings.labels,
        settings.training.seed,
        sources,
        words=(),
        model=origin,
        tokenizer=tokenizer,
        context_length=_context_length(tokenizer),
        virtual_tokens=count_virtual_tokens(settings.method),
    )


# --- settings --------------------------------------------------------------------------------------------------


def decide_settings(options: argparse.Namespace) -> Settings:
    """The job's settings, or a job's defaults, with what the options say instead."""
    settings = _settings_of_job(sys.stdin.buffer.read()) if options.spec_from_stdin else _default_settings()
    dataset = settings.dataset
    if options.format is not None:
        train = [source.model_copy(update={"format": options.format}) for source in dataset.train]
        dataset = dataset.model_copy(update={"train": train})
    if options.max_length is not None:
        preparation = dataset.preparation.model_copy(update={"max_length": options.max_length})
        dataset = dataset.model_copy(update={"preparation": preparation})
    return Settings(**{**vars(settings), "dataset": _without_what_is_elsewhere(dataset)})


def _settings_of_job(text: bytes) -> Settings:
    spec = FineTuneJobSpec.model_validate_json(text)
    return Settings(
        spec.dataset,
        spec.model,
        spec.task,
        tuple(spec.labels or ()),
        spec.method,
        spec.training,
        spec.parallelism,
    )


def _default_settings() -> Settings:
    dataset, method = Dataset(train=[DataSource(inline=[{}])]), Method(type=MethodType.LORA)
    return Settings(
        dataset, Model(source=DEFAULT_MODEL), Task.CAUSAL_LM, (), method, Training(), Parallelism()
    )


def _without_what_is_elsewhere(dataset: Dataset) -> Dataset:
    """Leave out what only the cluster has, and say so: other sources, and the list of words."""
    left_out = []
    if dataset.validation is not None and dataset.validation.sources:
        left_out.append("dataset.validation.sources")
        dataset = dataset.model_copy(update={"validation": None})
    if dataset.test:
        left_out.append("dataset.test")
        dataset = dataset.model_copy(update={"test": None})
    augment = dataset.preparation.augment
    if augment is not None and augment.word_list is not None:
        left_out.append("dataset.preparation.augment")
        preparation = dataset.preparation.model_copy(update={"augment": None})
        dataset = dataset.model_copy(update={"preparation": preparation})
    if left_out:
        _say(f"left out of the preview, since only the job's pods read it: {', '.join(left_out)}")
    return dataset


# --- files -----------------------------------------------------------------------------------------------------


def local_sources(
    paths: Sequence[Path], settings: Sequence[DataSource], work: Path
) -> tuple[LocalSource, ...]:
    """The files as sources: each with the settings of its place in dataset.train, or all with those of its only one."""
    if len(settings) > 1 and len(settings) != len(paths):
        raise UserError(
            f"The job's dataset.train has {len(settings)} sources and {len(paths)} files are named. Name one file for "
            "each source, in the same order."
        )
    each = settings if len(settings) == len(paths) else [settings[0]] * len(paths)
    return tuple(
        _local_source(path, number, source, work / str(number))
        for number, (path, source) in enumerate(zip(paths, each, strict=True))
    )


def _local_source(path: Path, number: int, settings: DataSource, work: Path) -> LocalSource:
    field, label = f"dataset.train[{number}]", str(path)
    if path.is_dir():
        below = (str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())
        files = [LocalFile(f"{label}/{name}", path / name) for name in readable_names(label, field, below)]
    elif path.is_file():
        files = [LocalFile(label, path)]
    else:
        raise UserError(f"{path} does not exist. Name a file or a folder with rows.")
    settings = settings.model_copy(update={"source": None, "inline": None})
    ready = tuple(unpack_columnar(file, work / str(place)) for place, file in enumerate(files))
    return LocalSource(label, field, settings, Split.TRAIN, ready)


# --- the tokenizer ---------------------------------------------------------------------------------------------


class _EnvironmentToken(HubToken):
    """A hub's token of the user's own; no Secret holds it."""

    def __str__(self) -> str:
        return f"the environment variable {self.key}"


def find_tokenizer(source: str, model: Model, directory: Path) -> Path:
    """The folder with the model's tokenizer; a hub's is fetched into `directory`. Raises UserError."""
    if is_hub_uri(source):
        return _fetch_tokenizer(source, model, directory)
    folder = Path(source)
    if (folder / TOKENIZER_FILE).is_file():
        return folder
    if "://" in source:
        raise UserError(
            f"The model {source} is not read here. Name a folder with its {TOKENIZER_FILE}, or the model's name at a "
            "hub: --model hf://org/name."
        )
    what = f"has no {TOKENIZER_FILE}" if folder.is_dir() else "is no folder here"
    raise UserError(
        f"--model {source} {what}. Name a folder that save_pretrained wrote, hf://org/name or modelscope://org/name."
    )


def _fetch_tokenizer(source: str, model: Model, directory: Path) -> Path:
    hub, name, _ = parse_hub_uri(source)
    variable = _TOKEN_VARIABLES[hub]
    value = os.environ.get(variable)
    address = RepositoryAddress(
        hub,
        RepositoryKind.MODEL,
        name,
        revision=model.revision if source == model.source else None,
        token=_EnvironmentToken(value, "", variable) if value else None,
    )
    _say(f"fetching the tokenizer of {source}")
    try:
        repository = HubRepository.open(address, Patience(total_seconds=_PATIENCE_SECONDS))
        wanted = {*TOKENIZER_FILES, CONFIG_FILE}
        for file in repository.resolve().files:
            if file.name in wanted:
                repository.download(file, directory)
    except StageError as error:
        token = f"set {variable}, or " if isinstance(error, UserError) else ""
        advice = f"Here: {token}name a folder with the tokenizer, --model DIR."
        raise type(error)(f"{error.message} {advice}") from error
    if not (directory / TOKENIZER_FILE).is_file():
        raise UserError(
            f"{source} has no {TOKENIZER_FILE}. Name a model that has one: --model hf://org/name."
        )
    return directory


def _context_length(folder: Path) -> int | None:
    """The model's context, which bounds the default of maxLength; None where the folder does not say."""
    try:
        config = DeclaredContext.model_validate_json((folder / CONFIG_FILE).read_bytes())
    except (OSError, ValidationError):
        return None
    return config.context_length


# --- telling ---------------------------------------------------------------------------------------------------


def _write_report(report: DataReport, options: argparse.Namespace) -> None:
    title = options.files[0].name if len(options.files) == 1 else f"{len(options.files)} files"
    _write(options.html, render_html(report, title))
    if options.json is not None:
        _write(options.json, report.model_dump_json(indent=2) + "\n")


def _tell(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # `| head` has seen enough. Python would complain again when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SystemExit(f"finetune: {path} cannot be written ({error.strerror}).") from error


def _has_colour() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def _say(sentence: str) -> None:
    sys.stderr.write(f"finetune: {sentence}\n")


def _fail(error: StageError) -> int:
    _say(error.message)
    return int(error.exit_code)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="finetune_trainer.preview", description=__doc__)
    parser.add_argument("files", type=Path, nargs="+", help="files or folders with rows")
    parser.add_argument("--model", help="a folder, or a hub's URI; the job's where it is left out")
    parser.add_argument("--format", type=DataFormat, help="the rows' format")
    parser.add_argument("--max-length", type=int, help="the longest row in tokens")
    parser.add_argument("--html", type=Path, default=Path("data-report.html"), help="the page to write")
    parser.add_argument("--json", type=Path, help="the report for programs")
    parser.add_argument(
        "--spec-from-stdin", action="store_true", help="a FineTuneJob's spec as JSON comes by standard input"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
