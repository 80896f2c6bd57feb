"""The export stage, on a CPU pod: adapter and merged model into the store, proven equal, then declared current.

Killed and started again it does its work anew and writes the same bytes; what an earlier attempt committed stands.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError
from transformers import AutoConfig

from finetune_api.job_file import JobFile
from finetune_api.layout import (
    ARTIFACT_MANIFEST_NAME,
    MODEL_CARD_NAME,
    ArtifactManifest,
    CurrentPointer,
)
from finetune_api.reasons import Reason
from finetune_api.termination import ExportedFacts, TerminationMessage, TrainedFacts
from finetune_trainer.adapters import ADAPTER_CONFIG_NAME, ADAPTER_WEIGHTS_NAME
from finetune_trainer.artifacts import (
    describe_folder,
    download_artifact,
    encode_manifest,
    load_manifest,
    upload_folder,
)
from finetune_trainer.base_model import base_model_store
from finetune_trainer.current_pointer import move_current
from finetune_trainer.data.prepared import (
    SAMPLE_FILE_NAME,
    PreparedRows,
    TokenizedRow,
    download_prepared,
    write_rows,
)
from finetune_trainer.data.step_batches import PackedRows, pack_rows
from finetune_trainer.errors import ObjectMissing, UserError
from finetune_trainer.fetching import fetch_base_model
from finetune_trainer.logs import quiet_libraries
from finetune_trainer.merging import MergedModel, load_deltas, write_merged
from finetune_trainer.model_card import build_card
from finetune_trainer.packaging import write_model_config, write_tokenizer
from finetune_trainer.run_file import RunFile, load_run_file
from finetune_trainer.storage import ObjectStore
from finetune_trainer.tensor_files import TensorFiles
from finetune_trainer.trained import download_trained, load_trained_facts
from finetune_trainer.verification import (
    LogitComparison,
    compare_logits,
    ensure_logits_agree,
    ensure_tensors_equal,
)
from finetune_trainer.work_directory import WorkDirectory

logger = logging.getLogger(__name__)

_COMPARED_ROWS = 32
# The end of each row, where the answer stands. It bounds the time: a 7B model on two cores computes minutes as it is.
_COMPARED_TOKENS = 128
_COMPARISON_NAME = "verification.json"


@dataclass(frozen=True)
class Inputs:
    """What export works on, on the pod's disk."""

    job: JobFile
    run_file: RunFile
    trained: TrainedFacts
    store: ObjectStore
    work: WorkDirectory

    @property
    def adapter(self) -> Path:
        """adapter/ as it will stand in the store."""
        return self.work.root / "adapter"

    @property
    def merged(self) -> Path:
        """merged/ as it will stand in the store."""
        return self.work.root / "merged"


def run(job: JobFile, job_path: Path) -> TerminationMessage:
    """Export the run's result. `job_path` is not needed here."""
    del job_path
    quiet_libraries()
    store = ObjectStore.open(job.spec.output.store)
    facts = load_exported(store, job)
    if facts is None:
        facts = export(job, store)
    move_current(store, job.layout, _pointer(job, facts))
    place = facts.merged_uri or facts.adapter_uri
    return TerminationMessage(reason=Reason.EXPORTED, message=f"The model is at {place}.", exported=facts)


def export(job: JobFile, store: ObjectStore) -> ExportedFacts:
    """Build, upload, verify, commit."""
    inputs = fetch_inputs(job, store)
    upload_adapter(inputs)
    comparison = upload_merged(inputs) if job.spec.output.merged.enabled else None
    upload_cards(inputs, comparison)
    return commit(inputs, comparison)


def load_exported(store: ObjectStore, job: JobFile) -> ExportedFacts | None:
    """What an earlier attempt committed; None unless all of it is there."""
    layout, needs_merged = job.layout, job.spec.output.merged.enabled
    adapter = load_manifest(store, layout.adapter_uri, ARTIFACT_MANIFEST_NAME)
    merged = load_manifest(store, layout.merged_uri, ARTIFACT_MANIFEST_NAME) if needs_merged else None
    if adapter is None or (needs_merged and merged is None):
        return None
    logger.info("an earlier attempt exported this run")
    return _facts(job, merged or adapter, _load_comparison(store, job) if merged else None)


def fetch_inputs(job: JobFile, store: ObjectStore) -> Inputs:
    """Bring the base model and the trained adapter onto the disk."""
    work, layout = WorkDirectory.from_environment(), job.layout
    run_file, trained = load_run_file(store, layout), load_trained_facts(store, layout)
    if trained is None:
        raise UserError(
            f"{layout.trained_uri} is not complete: training has not finished. Delete and re-apply the FineTuneJob."
        )
    fetch_base_model(ObjectStore.open(base_model_store(job.spec)), run_file.model, work.model)
    download_trained(store, layout, work.trained)
    inputs = Inputs(job, run_file, trained, store, work)
    for folder in (inputs.adapter, inputs.merged):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    return inputs


def upload_adapter(inputs: Inputs) -> None:
    """Build adapter/: weights and configuration as trained, tokenizer and chat template beside them."""
    for name in (ADAPTER_WEIGHTS_NAME, ADAPTER_CONFIG_NAME):
        shutil.copyfile(inputs.work.trained / name, inputs.adapter / name)
    write_tokenizer(inputs.work.model, inputs.adapter, inputs.run_file.chat_template)
    upload_folder(inputs.store, inputs.job.layout.adapter_uri, inputs.adapter)


def upload_merged(inputs: Inputs) -> LogitComparison:
    """Build merged/, upload it, fetch it back and prove that it is base + adapter. Raises UserError if it is not."""
    settings, base = inputs.job.spec.output.merged, inputs.work.model
    config = AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    with TensorFiles(base) as tensors:
        merged = MergedModel(
            tensors,
            load_deltas(inputs.adapter),
            settings.precision,
            tied_embeddings=bool(config.tie_word_embeddings),
        )
        write_merged(merged, inputs.merged, settings.max_shard_size)
        write_model_config(base, inputs.merged, merged.main_dtype)
        write_tokenizer(base, inputs.merged, inputs.run_file.chat_template)
        fetch_back(inputs)
        ensure_tensors_equal(merged, inputs.merged)
    comparison = compare_logits(
        base, inputs.adapter, inputs.merged, sample_rows(inputs), merged.adapted_dtypes
    )
    ensure_logits_agree(comparison)
    return comparison


def fetch_back(inputs: Inputs) -> None:
    """Replace the local merged/ by what the store gives back: what is verified is what users will get."""
    uri = inputs.job.layout.merged_uri
    manifest = describe_folder(inputs.merged, kind="merged")
    upload_folder(inputs.store, uri, inputs.merged)
    shutil.rmtree(inputs.merged)
    download_artifact(inputs.store, uri, manifest, inputs.merged)


def sample_rows(inputs: Inputs) -> PackedRows:
    """A few rows of the prepared data, each cut to its end, as one packed batch."""
    download_prepared(
        inputs.store, inputs.run_file.dataset.prepared_uri, inputs.work.data, [SAMPLE_FILE_NAME]
    )
    found = PreparedRows(inputs.work.data / SAMPLE_FILE_NAME)
    path = inputs.work.data / "cut.arrow"
    write_rows(path, (_end_of(found.row(row)) for row in range(min(_COMPARED_ROWS, len(found)))))
    rows = PreparedRows(path)
    return pack_rows(rows, range(len(rows)))


def upload_cards(inputs: Inputs, comparison: LogitComparison | None) -> None:
    """Write a README.md into each folder, for people; no digest covers it."""
    layout = inputs.job.layout
    folders = {layout.adapter_uri: False} | ({layout.merged_uri: True} if comparison else {})
    for uri, is_merged in folders.items():
        card = build_card(inputs.job, inputs.run_file, inputs.trained, comparison, merged=is_merged)
        inputs.store.write_bytes(f"{uri}/{MODEL_CARD_NAME}", card.encode())


def commit(inputs: Inputs, comparison: LogitComparison | None) -> ExportedFacts:
    """Write the manifests, by whose existence both folders are done."""
    layout, store = inputs.job.layout, inputs.store
    adapter = describe_folder(inputs.adapter, kind="adapter")
    merged = describe_folder(inputs.merged, kind="merged") if comparison else None
    if comparison is not None:
        store.write_bytes(
            f"{layout.run_uri}/{_COMPARISON_NAME}", (comparison.model_dump_json(indent=2) + "\n").encode()
        )
    store.write_bytes(f"{layout.adapter_uri}/{ARTIFACT_MANIFEST_NAME}", encode_manifest(adapter))
    if merged is not None:
        store.write_bytes(f"{layout.merged_uri}/{ARTIFACT_MANIFEST_NAME}", encode_manifest(merged))
    return _facts(inputs.job, merged or adapter, comparison)


def _facts(job: JobFile, manifest: ArtifactManifest, comparison: LogitComparison | None) -> ExportedFacts:
    return ExportedFacts(
        adapter_uri=job.layout.adapter_uri,
        merged_uri=job.layout.merged_uri if job.spec.output.merged.enabled else None,
        manifest_digest=hashlib.sha256(encode_manifest(manifest)).hexdigest(),
        merge_max_logit_difference=comparison.max_difference if comparison else None,
    )


def _load_comparison(store: ObjectStore, job: JobFile) -> LogitComparison | None:
    try:
        data = store.read_bytes(f"{job.layout.run_uri}/{_COMPARISON_NAME}")
        return LogitComparison.model_validate_json(data)
    except (ObjectMissing, ValidationError):
        return None


def _pointer(job: JobFile, facts: ExportedFacts) -> CurrentPointer:
    return CurrentPointer(
        run=job.layout.run_id,
        job_uid=job.uid,
        adapter_uri=facts.adapter_uri,
        merged_uri=facts.merged_uri,
        manifest_digest=facts.manifest_digest,
        completed=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
    )


def _end_of(row: TokenizedRow) -> TokenizedRow:
    return TokenizedRow(row.input_ids[-_COMPARED_TOKENS:], row.learned[-_COMPARED_TOKENS:])
