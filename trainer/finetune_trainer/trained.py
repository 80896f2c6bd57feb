"""The result of training in the store: what train commits at its very end, and export reads. Torch-free.

As a checkpoint it stands in a folder of the incarnation that wrote it: trained/00003/, its manifest last.
"""

from __future__ import annotations

from dataclasses import dataclass
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
from finetune_trainer.claims import Claims, ensure_not_superseded, load_claims
from finetune_trainer.errors import UserError
from finetune_trainer.storage import ObjectStore

_KIND = "trained"
_FACTS_NAME = "training.json"


@dataclass(frozen=True)
class Trained:
    """A committed result."""

    uri: str
    manifest: ArtifactManifest
    facts: TrainedFacts


def commit_trained(
    store: ObjectStore, layout: RunLayout, directory: Path, facts: TrainedFacts, incarnation: int
) -> None:
    """Upload the adapter in `directory` and declare training done. Raises Superseded if the run has a newer writer."""
    (directory / _FACTS_NAME).write_text(facts.model_dump_json(indent=2) + "\n", encoding="utf-8")
    manifest, uri = describe_folder(directory, kind=_KIND), f"{layout.trained_uri}/{incarnation:05d}"
    ensure_not_superseded(store, layout, incarnation)
    _remove_left_over(store, layout, incarnation)
    upload_folder(store, uri, directory)
    ensure_not_superseded(store, layout, incarnation)
    store.write_bytes(f"{uri}/{CHECKPOINT_MANIFEST_NAME}", encode_manifest(manifest))


def _remove_left_over(store: ObjectStore, layout: RunLayout, incarnation: int) -> None:
    """Remove what earlier incarnations began: had one of them ended the run, this one would not have trained."""

    def is_earlier(name: str) -> bool:
        number = name.partition("/")[0]
        return number.isdecimal() and int(number) < incarnation

    names = [info.name for info in store.list_objects(layout.trained_uri) if is_earlier(info.name)]
    # Manifests first: half-removed must mean uncommitted.
    names.sort(key=lambda name: not name.endswith(f"/{CHECKPOINT_MANIFEST_NAME}"))
    store.delete([f"{layout.trained_uri}/{name}" for name in names])
    store.abort_uploads(layout.trained_uri, which=is_earlier)


def find_trained(store: ObjectStore, layout: RunLayout) -> Trained | None:
    """The newest committed result; None while training has not ended."""
    names = [info.name.partition("/") for info in store.list_objects(layout.trained_uri)]
    numbers = {
        int(number) for number, _, name in names if number.isdecimal() and name == CHECKPOINT_MANIFEST_NAME
    }
    claims = load_claims(store, layout) if numbers else None
    for number in sorted(numbers, reverse=True):
        assert claims is not None, "read where there are numbers"
        if (found := _load(store, f"{layout.trained_uri}/{number:05d}", number, claims)) is not None:
            return found
    return None


def load_trained_facts(store: ObjectStore, layout: RunLayout) -> TrainedFacts | None:
    """Where training ended; None while it has not."""
    found = find_trained(store, layout)
    return None if found is None else found.facts


def download_trained(store: ObjectStore, layout: RunLayout, directory: Path) -> None:
    """Download the trained adapter, verified."""
    found = find_trained(store, layout)
    if found is None:
        raise UserError(
            f"{layout.trained_uri} has no {CHECKPOINT_MANIFEST_NAME}: training has not finished. "
            "Delete and re-apply the FineTuneJob."
        )
    download_artifact(store, found.uri, found.manifest, directory)


def _load(store: ObjectStore, uri: str, incarnation: int, claims: Claims) -> Trained | None:
    manifest = load_manifest(store, uri, CHECKPOINT_MANIFEST_NAME)
    if manifest is None:
        return None
    facts = TrainedFacts.model_validate_json(store.read_bytes(f"{uri}/{_FACTS_NAME}"))
    # As with checkpoints: what was committed after a newer incarnation had gone on from an earlier step does not count.
    successor_start = claims.successor_start(incarnation)
    return (
        None
        if successor_start is not None and successor_start < facts.step
        else Trained(uri, manifest, facts)
    )
