"""The prepare stage: everything that can be refused is refused here, on a CPU pod, before a GPU is asked for.

Brings the base model within the GPU pods' reach, fetches, checks, cleans and tokenises the rows, and writes run.json
and the data report. It never imports torch or transformers. A second attempt gives the same result; a second identical
job finds the prepared data.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from pydantic import ValidationError

from finetune_api import names
from finetune_api.job_file import JobFile
from finetune_api.layout import RunLayout
from finetune_api.reasons import Reason
from finetune_api.spec import FineTuneJobSpec, Method, MethodType, Store
from finetune_api.termination import PreparedFacts, TerminationMessage
from finetune_trainer.adapter_source import find_adapter
from finetune_trainer.base_model import FoundModel, find_base_model
from finetune_trainer.capacity import describe_snapshots, refuse_small_pods
from finetune_trainer.data.digest import dataset_digest
from finetune_trainer.data.encoding import ExampleEncoder
from finetune_trainer.data.pipeline import DataRefused, DataRequest, PreparedData, prepare_data
from finetune_trainer.data.prepared import (
    REPORT_FILE_NAME,
    PreparedManifest,
    load_prepared_manifest,
    save_prepared,
)
from finetune_trainer.data.report import DataReport, describe_summary
from finetune_trainer.data.sources import LocalSource, fetch_sources
from finetune_trainer.data.tokenization import TOKENIZER_FILES
from finetune_trainer.data.word_list import fetch_word_groups
from finetune_trainer.data_request import build_data_request
from finetune_trainer.earlier_run import find_earlier_run, refuse_differences
from finetune_trainer.errors import DataError, UserError
from finetune_trainer.file_entries import missing_objects
from finetune_trainer.hubs.datasets import open_hub_dataset
from finetune_trainer.model_files import InspectedModel, inspect_model, refuse_large_tokenizer
from finetune_trainer.row_lengths import count_virtual_tokens
from finetune_trainer.run_file import (
    AdapterFacts,
    BaseModelFacts,
    DatasetFacts,
    MethodFacts,
    RunFile,
    RunSettings,
    save_run_file,
)
from finetune_trainer.run_report import complete_report, log_report, save_report
from finetune_trainer.steps import StepPlan, decide_rank_steps, decide_steps
from finetune_trainer.storage import ObjectStore
from finetune_trainer.support import refuse_unsupported

logger = logging.getLogger(__name__)

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
class _Data:
    """The prepared data set, and what was found in it."""

    manifest: PreparedManifest
    report: DataReport


def run(job: JobFile, job_path: Path) -> TerminationMessage:
    """Prepare the run: check the stores, the model and the data; leave run.json. `job_path` is not needed here."""
    del job_path
    spec, layout, stores = job.spec, job.layout, Stores()
    refuse_unsupported(spec)
    output = stores.open(spec.output.store)
    check_output(output, layout)
    earlier = find_earlier_run(output, layout, spec.resume_from)
    with _WorkFolder() as work:
        sources = fetch_sources(
            spec.dataset, spec.output.store, stores.open, open_hub_dataset, work / "sources"
        )
        found = find_base_model(spec, layout, stores.open, work / "model")
        adapter = find_adapter(spec, layout, stores.open, work / "adapter")
        inspected = inspect(found, spec) if found.is_stored else None
        request = data_request(
            spec, sources, found, fetch_words(spec, stores, work / "words"), work / "tokenizer"
        )
        data = prepared_data(output, layout, request, work)
        # Last, since a large model takes longer than everything else, and broken data make it useless.
        inspected = inspected or inspect(found, spec)
        refuse_large_tokenizer(inspected.facts, request.encoder.vocabulary_size)
        adapter_facts = adapter.ensure_fitting(spec, inspected) if adapter is not None else None
    model = inspected.facts
    _log_model(model)
    _log_method(spec, inspected)
    plan = decide_steps(data.manifest.rows_per_epoch, spec.training)
    logger.info("the run has %d steps: %s", plan.total_steps, plan.explanation)
    method = with_rank_steps(inspected.method, spec.method, plan)
    advice = describe_snapshots(spec, model, method)
    if advice is not None:
        logger.warning(advice)
    run_file = _run_file(job, model, method, adapter_facts, data.manifest, plan)
    if earlier is not None:
        refuse_differences(earlier, run_file, spec.method.type)
        logger.info(
            "training will go on from step %d of run %s", earlier.checkpoint.step, earlier.run_file.run
        )
    report = complete_report(output, run_file.dataset.prepared_uri, data.report, job, plan)
    save_report(output, layout, report)
    save_run_file(output, layout, run_file)
    return _message(model, data.manifest, report, plan, advice)


# --- the output ------------------------------------------------------------------------------------------------


def check_output(store: ObjectStore, layout: RunLayout) -> None:
    """Prove that the run's folder can be listed, written and cleaned up, and that a listing shows what was written.

    Raises StorageDenied, ObjectMissing (no such bucket) or UserError.
    """
    probe = f"{layout.run_uri}/{_PROBE_NAME}"
    store.list_objects(layout.run_uri)
    store.write_bytes(probe, b"first")
    is_listed = _PROBE_NAME in {info.name for info in store.list_objects(layout.run_uri)}
    is_conditional = not store.write_bytes(probe, b"second", only_if_absent=True)
    store.delete([probe])
    if not is_listed:
        raise UserError(
            f"The store {store.endpoint} does not list an object that was just written, on which checkpoints rely: two "
            "pods could take themselves for the run's only writer. Use a store whose listings are consistent, such as "
            "AWS S3, Ceph or versitygw."
        )
    if not is_conditional:
        logger.warning(
            "%s ignores conditional writes (If-None-Match): checkpoints do without them, but of two runs that end at "
            "the same moment either may stand in %s",
            store.endpoint,
            layout.current_uri,
        )
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        shutil.rmtree(self._path, ignore_errors=True)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise UserError(
                "The prepare pod's disk is full. Raise resources.prepare.ephemeralStorage: the disk holds the rows "
                "about three times, and the largest file of a model that is brought into the store."
            ) from error


def inspect(found: FoundModel, spec: FineTuneJobSpec) -> InspectedModel:
    """Make sure that GPU pods can read the model, and check it against the job."""
    stored = found.ensure_stored()
    inspected = inspect_model(
        found.store,
        stored.uri,
        spec.method,
        task=spec.task,
        label_count=len(spec.labels or ()),
        origin=stored.origin,
    )
    model = inspected.facts.model_copy(update={"revision": stored.revision})
    refuse_small_pods(spec, model, inspected.method)
    return replace(inspected, facts=model)


def with_rank_steps(facts: MethodFacts, method: Method, plan: StepPlan) -> MethodFacts:
    """Add when AdaLoRA's ranks shrink, which the length of the run decides."""
    if method.type is not MethodType.ADA_LORA:
        return facts
    steps = decide_rank_steps(plan.total_steps, method.ada_lora)
    return facts.model_copy(update={"initial_steps": steps.initial, "final_steps": steps.final})


def data_request(
    spec: FineTuneJobSpec,
    sources: Sequence[LocalSource],
    found: FoundModel,
    words: tuple[tuple[str, ...], ...],
    tokenizer: Path,
) -> DataRequest:
    """What is to be prepared, and how, with the model's tokenizer brought into a folder."""
    found.fetch(TOKENIZER_FILES, tokenizer)
    return build_data_request(
        spec.dataset,
        spec.task,
        tuple(spec.labels or ()),
        spec.training.seed,
        sources,
        words,
        model=found.folder.origin,
        tokenizer=tokenizer,
        context_length=found.declared.context_length,
        virtual_tokens=count_virtual_tokens(spec.method),
    )


def fetch_words(spec: FineTuneJobSpec, stores: Stores, folder: Path) -> tuple[tuple[str, ...], ...]:
    """The words that augmentation may exchange; none where the job names no list."""
    augment = spec.dataset.preparation.augment
    if augment is None or augment.word_list is None:
        return ()
    return fetch_word_groups(augment.word_list, spec.output.store, stores.open, folder)


# --- the prepared data -----------------------------------------------------------------------------------------


def prepared_data(store: ObjectStore, layout: RunLayout, request: DataRequest, work: Path) -> _Data:
    """Find the prepared data in the store, or prepare them. Data that are refused leave their report behind."""
    digest = dataset_digest(request)
    uri = layout.prepared_uri(digest)
    if (found := _find_prepared(store, uri, digest)) is not None:
        logger.info("the same rows, tokenizer and settings were prepared before: using %s", uri)
        return found
    folder = work / "prepared"
    folder.mkdir()
    try:
        prepared = prepare_data(request, digest, folder, work)
    except DataRefused as refused:
        save_report(store, layout, refused.report)
        raise DataError(f"{refused.message} Report: {layout.data_report_uri}") from refused
    log_report(prepared.report)
    facts = _manifest(digest, prepared, request.encoder)
    return _Data(save_prepared(store, uri, folder, facts), prepared.report)


def _find_prepared(store: ObjectStore, uri: str, digest: str) -> _Data | None:
    """What an earlier job left, if all of it is there and of this release's form."""
    manifest = load_prepared_manifest(store, uri)
    if manifest is None or manifest.digest != digest:
        return None
    if missing_objects(store, uri, manifest.files):
        logger.warning("the prepared data at %s are not complete any more; preparing them again", uri)
        return None
    try:
        report = DataReport.model_validate_json(store.read_bytes(f"{uri}/{REPORT_FILE_NAME}"))
    except ValidationError:
        return None
    return _Data(manifest, report)


def _manifest(digest: str, prepared: PreparedData, encoder: ExampleEncoder) -> PreparedManifest:
    report = prepared.report
    return PreparedManifest(
        digest=digest,
        rows=report.rows_by_split.train,
        rows_validation=report.rows_by_split.validation,
        rows_test=report.rows_by_split.test,
        rows_dropped=report.rows_dropped,
        rows_per_epoch=prepared.rows_per_epoch,
        tokens=report.tokens,
        learned_tokens=report.learned_tokens,
        longest_row_tokens=report.lengths.longest,
        mask_source=report.mask_source,
        chat_template=encoder.template or "",
        labels=prepared.labels,
        files=(),
    )


# --- results ---------------------------------------------------------------------------------------------------


def _run_file(
    job: JobFile,
    model: BaseModelFacts,
    method: MethodFacts,
    adapter: AdapterFacts | None,
    manifest: PreparedManifest,
    plan: StepPlan,
) -> RunFile:
    training = job.spec.training
    return RunFile(
        run=job.layout.run_id,
        job_uid=job.uid,
        model=model,
        method=method,
        adapter=adapter,
        dataset=DatasetFacts(
            digest=manifest.digest,
            prepared_uri=job.layout.prepared_uri(manifest.digest),
            rows_used=manifest.rows,
            rows_dropped=manifest.rows_dropped,
            tokens=manifest.tokens,
            learned_tokens=manifest.learned_tokens,
            longest_row_tokens=manifest.longest_row_tokens,
            rows_validation=manifest.rows_validation,
            rows_test=manifest.rows_test,
        ),
        total_steps=plan.total_steps,
        steps_per_epoch=plan.steps_per_epoch,
        warmup_steps=plan.warmup_steps,
        decay_steps=plan.decay_steps,
        evaluation_steps=plan.evaluation_steps if manifest.rows_validation else None,
        chat_template=manifest.chat_template,
        mask_source=manifest.mask_source,
        settings=RunSettings(
            method=job.spec.method.model_dump(mode="json"),
            seed=training.seed,
            global_batch_size=training.global_batch_size,
            task=job.spec.task,
            labels=tuple(job.spec.labels or ()),
            optimizer=training.optimizer,
        ),
    )


def _message(
    model: BaseModelFacts,
    manifest: PreparedManifest,
    report: DataReport,
    plan: StepPlan,
    advice: str | None,
) -> TerminationMessage:
    return TerminationMessage(
        reason=Reason.PREPARED,
        message=" ".join(filter(None, (describe_summary(report), advice))),
        prepared=PreparedFacts(
            dataset_digest=manifest.digest,
            model_digest=model.digest,
            model_revision=model.revision,
            rows_used=manifest.rows,
            rows_dropped=manifest.rows_dropped,
            rows_validation=manifest.rows_validation,
            rows_test=manifest.rows_test,
            total_steps=plan.total_steps,
        ),
    )


def _log_model(model: BaseModelFacts) -> None:
    logger.info(
        "base model %s: %s with %d parameters (%s), context %s",
        model.uri,
        model.architecture,
        model.parameter_count,
        ", ".join(model.weight_dtypes),
        model.context_length or "unknown",
    )


def _log_method(spec: FineTuneJobSpec, inspected: InspectedModel) -> None:
    modules = inspected.modules
    where = f", adapters on {', '.join(modules.targets)}" if modules.targets else ""
    logger.info(
        "method %s trains %d parameters%s", spec.method.type.value, inspected.method.trainable_count, where
    )
    if modules.left_out:
        logger.info(
            "method.lora.targetModules [auto] leaves out %s: method.lora.fullyTrainedModules %s trains them whole",
            ", ".join(modules.left_out),
            ", ".join(modules.fully_trained),
        )
