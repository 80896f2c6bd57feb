"""The export stage, on a CPU pod: adapter and merged model into the store, proven right, then declared current.

Killed and started again it does its work anew and writes the same bytes; what an earlier attempt committed stands.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from finetune_api.job_file import JobFile
from finetune_api.layout import (
    ARTIFACT_MANIFEST_NAME,
    MODEL_CARD_NAME,
    ArtifactManifest,
    CurrentPointer,
)
from finetune_api.reasons import Reason
from finetune_api.spec import MethodType
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
from finetune_trainer.checkpoint_pruning import remove_unfinished
from finetune_trainer.compared_rows import load_compared_rows
from finetune_trainer.current_pointer import move_current
from finetune_trainer.data.step_batches import PackedRows
from finetune_trainer.deliverables import Deliverables, can_be_merged, decide_deliverables
from finetune_trainer.errors import ObjectMissing, UserError
from finetune_trainer.fetching import fetch_base_model
from finetune_trainer.logs import quiet_libraries
from finetune_trainer.merging.adapter_changes import read_adapter_changes
from finetune_trainer.merging.full_changes import read_full_changes
from finetune_trainer.merging.merged_model import MergedModel, write_merged
from finetune_trainer.model_card import Proof, build_card
from finetune_trainer.packaging import has_tied_embeddings, write_merged_config, write_tokenizer
from finetune_trainer.reloaded_adapter import check_reloaded_adapter
from finetune_trainer.run_file import RunFile, load_run_file
from finetune_trainer.storage import ObjectStore
from finetune_trainer.tensor_files import TensorFiles
from finetune_trainer.trained import download_trained, load_trained_facts
from finetune_trainer.verification import (
    Compared,
    LogitComparison,
    compare_with_adapter,
    compare_with_trained,
    ensure_logits_agree,
    ensure_tensors_equal,
)
from finetune_trainer.work_directory import WorkDirectory

logger = logging.getLogger(__name__)

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

    @property
    def is_full(self) -> bool:
        """Whether the whole model was trained; else it was an adapter."""
        return self.job.spec.method.type is MethodType.FULL

    @property
    def rows(self) -> PackedRows:
        """What models are run on."""
        return load_compared_rows(self.store, self.run_file.dataset.prepared_uri, self.work.data)


def run(job: JobFile, job_path: Path) -> TerminationMessage:
    """Export the run's result. `job_path` is not needed here."""
    del job_path
    quiet_libraries()
    store = ObjectStore.open(job.spec.output.store)
    facts = load_exported(store, job)
    if facts is None:
        facts = export(job, store)
    remove_unfinished(store, job.layout)
    move_current(store, job.layout, _pointer(job, facts))
    return TerminationMessage(reason=Reason.EXPORTED, message=describe_result(job, facts), exported=facts)


def export(job: JobFile, store: ObjectStore) -> ExportedFacts:
    """Build, upload, verify, commit."""
    inputs, wanted = fetch_inputs(job, store), decide_deliverables(job.spec)
    if wanted.adapter:
        upload_adapter(inputs)
    proof = prove_merged(inputs) if wanted.merged else prove_adapter(inputs)
    upload_cards(inputs, wanted, proof)
    return commit(inputs, wanted, proof)


def load_exported(store: ObjectStore, job: JobFile) -> ExportedFacts | None:
    """What an earlier attempt committed; None unless all of it is there."""
    layout, wanted = job.layout, decide_deliverables(job.spec)
    folders = {layout.adapter_uri: wanted.adapter, layout.merged_uri: wanted.merged}
    manifests = [
        load_manifest(store, uri, ARTIFACT_MANIFEST_NAME) for uri, is_wanted in folders.items() if is_wanted
    ]
    found = [manifest for manifest in manifests if manifest is not None]
    if len(found) < len(manifests):
        return None
    logger.info("an earlier attempt exported this run")
    return _facts(job, wanted, found[-1], _load_comparison(store, job) if wanted.merged else None)


def fetch_inputs(job: JobFile, store: ObjectStore) -> Inputs:
    """Bring the base model and what was trained onto the disk."""
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
    base, labels = inputs.work.model, inputs.job.spec.labels
    write_tokenizer(base, inputs.adapter, inputs.run_file.chat_template, labels)
    upload_folder(inputs.store, inputs.job.layout.adapter_uri, inputs.adapter)


def prove_merged(inputs: Inputs) -> Proof:
    """Build merged/, upload it, fetch it back and prove that it is what was trained. Raises UserError if it is not."""
    spec, base = inputs.job.spec, inputs.work.model
    with ExitStack() as stack:
        merged = merge(inputs, stack)
        write_merged(merged, inputs.merged, spec.output.merged.max_shard_size)
        write_merged_config(
            base, inputs.merged, merged.main_dtype, is_untied=merged.is_untied, labels=spec.labels
        )
        write_tokenizer(base, inputs.merged, inputs.run_file.chat_template, spec.labels)
        fetch_back(inputs, inputs.merged, inputs.job.layout.merged_uri, kind="merged")
        ensure_tensors_equal(merged, inputs.merged)
    compared = Compared(base, inputs.work.trained, inputs.merged, inputs.rows, spec.labels)
    compare = compare_with_trained if inputs.is_full else compare_with_adapter
    comparison = compare(compared, merged.adapted_dtypes)
    ensure_logits_agree(comparison)
    return Proof(comparison=comparison)


def merge(inputs: Inputs, stack: ExitStack) -> MergedModel:
    """The merged model, from files that stay open for as long as the stack."""
    spec = inputs.job.spec
    base = stack.enter_context(TensorFiles(inputs.work.model))
    trained = stack.enter_context(TensorFiles(inputs.work.trained))
    changes = (
        read_full_changes(trained)
        if inputs.is_full
        else read_adapter_changes(inputs.work.trained, trained, base)
    )
    tied_embeddings = has_tied_embeddings(inputs.work.model)
    return MergedModel(
        base, changes, spec.output.merged.precision, tied_embeddings=tied_embeddings, task=spec.task
    )


def prove_adapter(inputs: Inputs) -> Proof:
    """Fetch adapter/ back, load it on the base and run it. Raises UserError if it is not what was trained."""
    fetch_back(inputs, inputs.adapter, inputs.job.layout.adapter_uri, kind="adapter")
    check = check_reloaded_adapter(
        inputs.work.model, inputs.adapter, inputs.work.trained, inputs.rows, inputs.job.spec.labels
    )
    return Proof(adapter=check)


def fetch_back(inputs: Inputs, folder: Path, uri: str, *, kind: str) -> None:
    """Upload a folder and replace it by what the store gives back: what is verified is what users will get."""
    manifest = describe_folder(folder, kind=kind)
    upload_folder(inputs.store, uri, folder)
    shutil.rmtree(folder)
    download_artifact(inputs.store, uri, manifest, folder)


def upload_cards(inputs: Inputs, wanted: Deliverables, proof: Proof) -> None:
    """Write a README.md into each folder, for people; no digest covers it."""
    layout = inputs.job.layout
    for uri, merged, is_wanted in (
        (layout.adapter_uri, False, wanted.adapter),
        (layout.merged_uri, True, wanted.merged),
    ):
        if is_wanted:
            card = build_card(inputs.job, inputs.run_file, inputs.trained, proof, merged=merged)
            inputs.store.write_bytes(f"{uri}/{MODEL_CARD_NAME}", card.encode())


def commit(inputs: Inputs, wanted: Deliverables, proof: Proof) -> ExportedFacts:
    """Write the manifests, by whose existence the folders are done."""
    layout, store, comparison = inputs.job.layout, inputs.store, proof.comparison
    if comparison is not None:
        store.write_bytes(
            f"{layout.run_uri}/{_COMPARISON_NAME}", (comparison.model_dump_json(indent=2) + "\n").encode()
        )
    manifests = {}
    if wanted.adapter:
        manifests[layout.adapter_uri] = describe_folder(inputs.adapter, kind="adapter")
    if wanted.merged:
        manifests[layout.merged_uri] = describe_folder(inputs.merged, kind="merged")
    for uri, manifest in manifests.items():
        store.write_bytes(f"{uri}/{ARTIFACT_MANIFEST_NAME}", encode_manifest(manifest))
    return _facts(inputs.job, wanted, list(manifests.values())[-1], comparison)


def describe_result(job: JobFile, facts: ExportedFacts) -> str:
    """Say where the model is, and why there is only an adapter where there is."""
    if facts.merged_uri is not None:
        return f"The model is at {facts.merged_uri}."
    method = job.spec.method.type
    why = "output.merged.enabled is false" if can_be_merged(method) else f"{method.value} cannot be merged"
    return f"The adapter is at {facts.adapter_uri}; it is used with its base model, because {why}."


def _facts(
    job: JobFile, wanted: Deliverables, manifest: ArtifactManifest, comparison: LogitComparison | None
) -> ExportedFacts:
    return ExportedFacts(
        adapter_uri=job.layout.adapter_uri if wanted.adapter else None,
        merged_uri=job.layout.merged_uri if wanted.merged else None,
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
