"""The result of training in the store: what train commits at its very end, and export reads. Torch-free."""

from __future__ import annotations

from pathlib import Path

from finetune_api.layout import CHECKPOINT_MANIFEST_NAME, ArtifactManifest, RunLayout
from finetune_api.termination import TrainedFacts
from finetune_trainer.artifacts import (
    describe_folder,
    download_artifact,
    encode_manifest,
    load_manifest,
    upload_folder,
)
from finetune_trainer.checkpoints import ensure_not_superseded
from finetune_trainer.errors import UserError
from finetune_trainer.storage import ObjectStore

_KIND = "trained"
_FACTS_NAME = "training.json"


def commit_trained(
    store: ObjectStore, layout: RunLayout, directory: Path, facts: TrainedFacts, incarnation: int
) -> None:
    """Upload the adapter in `directory` and declare training done. Raises Superseded if the run has a newer writer."""
    (directory / _FACTS_NAME).write_text(facts.model_dump_json(indent=2) + "\n", encoding="utf-8")
    manifest = describe_folder(directory, kind=_KIND)
    ensure_not_superseded(store, layout, incarnation)
    upload_folder(store, layout.trained_uri, directory)
    store.write_bytes(f"{layout.trained_uri}/{CHECKPOINT_MANIFEST_NAME}", encode_manifest(manifest))


def load_trained_facts(store: ObjectStore, layout: RunLayout) -> TrainedFacts | None:
    """Where training ended; None while it has not."""
    if _manifest(store, layout) is None:
        return None
    return TrainedFacts.model_validate_json(store.read_bytes(f"{layout.trained_uri}/{_FACTS_NAME}"))


def download_trained(store: ObjectStore, layout: RunLayout, directory: Path) -> None:
    """Download the trained adapter, verified."""
    manifest = _manifest(store, layout)
    if manifest is None:
        raise UserError(
            f"{layout.trained_uri} has no {CHECKPOINT_MANIFEST_NAME}: training has not finished. "
            "Delete and re-apply the FineTuneJob."
        )
    download_artifact(store, layout.trained_uri, manifest, directory)


def _manifest(store: ObjectStore, layout: RunLayout) -> ArtifactManifest | None:
    return load_manifest(store, layout.trained_uri, CHECKPOINT_MANIFEST_NAME)
