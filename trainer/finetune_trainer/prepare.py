"""The prepare stage: everything that can be refused is refused here, on a CPU pod, before a GPU is asked for.

Fetches and checks the rows, tokenises them with the learned tokens marked, and writes run.json. It never imports
torch or transformers. A second attempt gives the same result; a second identical job finds the prepared data.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from finetune_api import names
from finetune_api.job_file import JobFile
from finetune_api.layout import RunLayout
from finetune_api.reasons import Reason
from finetune_api.spec import Dataset, Store
from finetune_api.termination import PreparedFacts, TerminationMessage
from finetune_trainer.capacity import refuse_small_pods
from finetune_trainer.checkpoints import sha256_of_file
from finetune_trainer.data.masks import RowRenderer, choose_renderer
from finetune_trainer.data.preparation import tokenized_rows
from finetune_trainer.data.prepared import (
    REPORT_FILE_NAME,
    ROWS_FILE_NAME,
    PreparedManifest,
    load_prepared_manifest,
    save_prepared,
    write_rows,
)
from finetune_trainer.data.report import DataReport, Tally, build_report, describe_example
from finetune_trainer.data.sources import LocalSource, fetch_sources
from finetune_trainer.data.tokenization import TOKENIZER_FILES, ModelTokenizer, load_tokenizer
from finetune_trainer.earlier_run import find_earlier_run, refuse_differences
from finetune_trainer.errors import UserError
from finetune_trainer.model_files import inspect_model, refuse_unfit_lengths
from finetune_trainer.run_file import BaseModelFacts, DatasetFacts, RunFile, RunSettings, save_run_file
from finetune_trainer.steps import StepPlan, decide_steps
from finetune_trainer.storage import ObjectStore
from finetune_trainer.support import refuse_unsupported

logger = logging.getLogger(__name__)

# Part of the data set's digest: raise it when the same rows and settings would give other tokens or another mask, also
# when the default of a setting changes.
PREPARATION_VERSION = 1
_PROBE_NAME = ".write-check"


class Stores:
    """One client for each store the job names."""

    def __init__(self) -> None:
        self._opened: dict[Store, ObjectStore] = {}

    def open(self, store: Store) -> ObjectStore:
        """The client of a store, made once."""
        if store not in self._opened:
            self._opened[store] = ObjectStore.open(store)
        return self._opened[store]


@dataclass(frozen=True)
class _Inputs:
    """What is fetched and decided before the first row is read."""

    sources: list[LocalSource]
    tokenizer: ModelTokenizer
    renderer: RowRenderer
    chat_template: str


def run(job: JobFile, job_path: Path) -> TerminationMessage:
    """Prepare the run: check the stores, the model and the data; leave run.json. `job_path` is not needed here."""
    del job_path
    spec, layout, stores = job.spec, job.layout, Stores()
    refuse_unsupported(spec)
    output = stores.open(spec.output.store)
    check_output(output, layout)
    earlier = find_earlier_run(output, layout, spec.resume_from)
    model_store = stores.open(spec.model.store or spec.output.store)
    model = inspect_model(model_store, spec.model.source, spec.method.lora)
    _log_model(model)
    refuse_small_pods(spec, model)
    with _WorkFolder() as work:
        inputs = _fetch_inputs(spec.dataset, spec.output.store, stores, model_store, model, work)
        refuse_unfit_lengths(model, spec.dataset.preparation.max_length, inputs.tokenizer.size)
        digest = _dataset_digest(spec.dataset, inputs, work)
        manifest = _prepared(output, layout, digest, spec.dataset, inputs, work)
    plan = decide_steps(manifest.rows, spec.training)
    logger.info("the run has %d steps: %s", plan.total_steps, plan.explanation)
    run_file = _run_file(job, model, manifest, plan)
    if earlier is not None:
        refuse_differences(earlier, run_file)
        logger.info(
            "training will go on from step %d of run %s", earlier.checkpoint.step, earlier.run_file.run
        )
    _copy_report(output, layout, digest)
    save_run_file(output, layout, run_file)
    return _message(model, manifest, plan)


# --- the output ------------------------------------------------------------------------------------------------


def check_output(store: ObjectStore, layout: RunLayout) -> None:
    """Prove that the run's folder can be listed, written and cleaned up, and that conditional writes hold.

    Raises StorageDenied, ObjectMissing (no such bucket) or UserError.
    """
    probe = f"{layout.run_uri}/{_PROBE_NAME}"
    store.list_objects(layout.run_uri)
    store.write_bytes(probe, b"first")
    if store.write_bytes(probe, b"second", only_if_absent=True):
        raise UserError(
            f"The store {store.endpoint} ignores conditional writes (If-None-Match), on which checkpoints rely: "
            "two pods could overwrite each other. Use a store that supports them, such as AWS S3, Ceph or versitygw."
        )
    store.delete([probe])
    logger.info("the output %s can be written", layout.run_uri)


# --- inputs ----------------------------------------------------------------------------------------------------


class _WorkFolder:
    """A folder of the pod's own disk, empty at the start and gone at the end."""

    def __init__(self) -> None:
        root = Path(os.environ.get(names.ENV_WORK_DIRECTORY, names.WORK_DIRECTORY))
        self._path = root / "prepare"

    def __enter__(self) -> Path:
        shutil.rmtree(self._path, ignore_errors=True)
        self._path.mkdir(parents=True)
        return self._path

    def __exit__(self, *exception: object) -> None:
        shutil.rmtree(self._path, ignore_errors=True)


def _fetch_inputs(
    dataset: Dataset,
    default_store: Store,
    stores: Stores,
    model_store: ObjectStore,
    model: BaseModelFacts,
    work: Path,
) -> _Inputs:
    listed = {file.name for file in model.files}
    model_store.download_folder(
        model.uri, work / "model", [name for name in TOKENIZER_FILES if name in listed]
    )
    tokenizer = load_tokenizer(work / "model")
    chat_template, origin = _chat_template(dataset, tokenizer, model)
    renderer = choose_renderer(chat_template, origin, tokenizer.special_tokens, dataset.loss_on)
    logger.info("learned tokens: %s", renderer.explanation)
    if not renderer.end_of_turn:
        logger.warning("the chat template of %s ends no turn: the model will not learn where to stop", origin)
    sources = fetch_sources(dataset, default_store, stores.open, work / "sources")
    return _Inputs(sources, tokenizer, renderer, chat_template)


def _chat_template(dataset: Dataset, tokenizer: ModelTokenizer, model: BaseModelFacts) -> tuple[str, str]:
    if dataset.chat_template is not None:
        logger.info("chat template: dataset.chatTemplate replaces the model's own")
        return dataset.chat_template, "dataset.chatTemplate"
    if tokenizer.chat_template is None:
        raise UserError(
            f"{model.uri} has no chat template (neither chat_template.jinja nor one in tokenizer_config.json). "
            "Set dataset.chatTemplate, for example to the template of the model's instruction-tuned version."
        )
    return tokenizer.chat_template, model.uri


def _dataset_digest(dataset: Dataset, inputs: _Inputs, work: Path) -> str:
    """SHA-256 over everything the tokens depend on: equal digests mean equal prepared data."""
    files = [work / "model" / name for name in TOKENIZER_FILES]
    ingredients = {
        "version": PREPARATION_VERSION,
        # Only what was set: a field that a later release adds must not make other data of the same rows.
        "settings": dataset.model_dump(
            mode="json", exclude={"train", "chat_template"}, exclude_defaults=True
        ),
        "sources": [_source_ingredients(source) for source in inputs.sources],
        "tokenizer": [sha256_of_file(path) if path.is_file() else None for path in files],
        "template": inputs.chat_template,
        "training_template": inputs.renderer.template.source,
    }
    encoded = json.dumps(ingredients, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(encoded.encode()).hexdigest()


def _source_ingredients(source: LocalSource) -> dict[str, object]:
    reading = source.settings.model_dump(
        mode="json", include={"format", "columns", "max_rows", "inline"}, exclude_defaults=True
    )
    # The report names the sources, so equal rows from another place are another data set.
    return {**reading, "label": source.label, "sha256": sha256_of_file(source.path) if source.path else None}


# --- the prepared data -----------------------------------------------------------------------------------------


def _prepared(
    store: ObjectStore, layout: RunLayout, digest: str, dataset: Dataset, inputs: _Inputs, work: Path
) -> PreparedManifest:
    uri = layout.prepared_uri(digest)
    found = load_prepared_manifest(store, uri)
    if found is not None and found.digest == digest:
        logger.info("the same rows, tokenizer and settings were prepared before: using %s", uri)
        return found
    tally = Tally()
    rows = tokenized_rows(inputs.sources, dataset, inputs.renderer, inputs.tokenizer, tally)
    folder = work / "prepared"
    folder.mkdir()
    write_rows(folder / ROWS_FILE_NAME, rows)
    report = build_report(tally, inputs.tokenizer, inputs.renderer.explanation)
    (folder / REPORT_FILE_NAME).write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    _log_report(report)
    return save_prepared(store, uri, folder, _manifest(digest, report, inputs))


def _manifest(digest: str, report: DataReport, inputs: _Inputs) -> PreparedManifest:
    return PreparedManifest(
        digest=digest,
        rows=report.rows_used,
        rows_dropped=report.rows_dropped,
        tokens=report.tokens,
        learned_tokens=report.learned_tokens,
        longest_row_tokens=report.lengths.longest,
        mask_source=inputs.renderer.explanation,
        chat_template=inputs.chat_template,
        files=(),
    )


def _copy_report(store: ObjectStore, layout: RunLayout, digest: str) -> None:
    store.write_bytes(
        layout.report_uri, store.read_bytes(f"{layout.prepared_uri(digest)}/{REPORT_FILE_NAME}")
    )


# --- results ---------------------------------------------------------------------------------------------------


def _run_file(job: JobFile, model: BaseModelFacts, manifest: PreparedManifest, plan: StepPlan) -> RunFile:
    return RunFile(
        run=job.layout.run_id,
        job_uid=job.uid,
        model=model,
        dataset=DatasetFacts(
            digest=manifest.digest,
            prepared_uri=job.layout.prepared_uri(manifest.digest),
            rows_used=manifest.rows,
            rows_dropped=manifest.rows_dropped,
            tokens=manifest.tokens,
            learned_tokens=manifest.learned_tokens,
            longest_row_tokens=manifest.longest_row_tokens,
        ),
        total_steps=plan.total_steps,
        steps_per_epoch=plan.steps_per_epoch,
        warmup_steps=plan.warmup_steps,
        chat_template=manifest.chat_template,
        mask_source=manifest.mask_source,
        settings=RunSettings(
            method=job.spec.method.model_dump(mode="json"),
            seed=job.spec.training.seed,
            global_batch_size=job.spec.training.global_batch_size,
        ),
    )


def _message(model: BaseModelFacts, manifest: PreparedManifest, plan: StepPlan) -> TerminationMessage:
    return TerminationMessage(
        reason=Reason.PREPARED,
        message=(
            f"Prepared {manifest.rows} rows ({manifest.rows_dropped} dropped) with {manifest.tokens} tokens, "
            f"{manifest.learned_tokens} of them learned, for {plan.total_steps} steps."
        ),
        prepared=PreparedFacts(
            dataset_digest=manifest.digest,
            model_digest=model.digest,
            rows_used=manifest.rows,
            rows_dropped=manifest.rows_dropped,
            total_steps=plan.total_steps,
        ),
    )


def _log_model(model: BaseModelFacts) -> None:
    logger.info(
        "base model %s: %s with %d parameters (%s), context %s, adapters on %s",
        model.uri,
        model.architecture,
        model.parameter_count,
        ", ".join(model.weight_dtypes),
        model.context_length or "unknown",
        ", ".join(model.target_modules),
    )


def _log_report(report: DataReport) -> None:
    logger.info(
        "rows: %d read, %d used, %d invalid, %d longer than maxLength, %d without anything to learn, %d truncated",
        report.rows_read,
        report.rows_used,
        report.invalid.rows,
        report.overlong.rows,
        report.nothing_to_learn.rows,
        report.rows_truncated,
    )
    percentiles = ", ".join(f"{name} {tokens}" for name, tokens in report.lengths.percentiles.items())
    logger.info("row lengths in tokens: %s, longest %d", percentiles, report.lengths.longest)
    for drops in (report.invalid, report.overlong, report.nothing_to_learn):
        for sentence in drops.first[:5]:
            logger.info("left out: %s", sentence)
    logger.info("one row, learned parts between « »: %s", describe_example(report.example))
