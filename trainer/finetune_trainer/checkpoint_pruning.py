"""Removes what no longer has to be kept of a run's checkpoints: old ones, and what was never committed. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable

from finetune_api.layout import RunLayout
from finetune_trainer.checkpoints import (
    CheckpointManifest,
    Place,
    checkpoints_newest_first,
    load_usable,
    parse_place,
)
from finetune_trainer.claims import ensure_not_superseded, load_claims
from finetune_trainer.retention import Kept, Retention, decide_kept
from finetune_trainer.storage import ObjectInfo, ObjectStore


def prune_checkpoints(
    store: ObjectStore, layout: RunLayout, retention: Retention, incarnation: int
) -> list[int]:
    """Remove what is no longer needed and return the steps that are kept, the newest first.

    Gone are checkpoints that retention does not keep, whatever earlier incarnations and steps left unfinished, and
    their unfinished uploads. Without a complete checkpoint nothing is removed. Raises Superseded.
    """
    ensure_not_superseded(store, layout, incarnation)
    claims = load_claims(store, layout)
    found = list(checkpoints_newest_first(store, layout))
    manifests = {place: load_usable(store, place, objects, claims) for place, objects in found}
    usable = {
        place.step: Kept(place.step, manifest.eval_loss)
        for place, manifest in reversed(manifests.items())
        if isinstance(manifest, CheckpointManifest)
    }
    if not usable:
        return []
    newest_first = sorted(usable.values(), key=lambda kept: -kept.step)
    kept = decide_kept(newest_first, retention)
    for place, objects in found:
        is_kept = place.step in kept and isinstance(manifests[place], CheckpointManifest)
        if not is_kept and (place.step < newest_first[0].step or place.incarnation < incarnation):
            _remove_checkpoint(store, place, objects)
    _abort_unfinished_uploads(store, layout, incarnation, newest_first[0].step)
    return kept


def remove_unfinished(store: ObjectStore, layout: RunLayout) -> int:
    """Remove what was never committed, also unfinished uploads; return how many folders and uploads there were.

    For when training is done: nobody prunes after the last commit, and a request that hung may have ended since.
    """
    abandoned = [
        objects
        for place, objects in checkpoints_newest_first(store, layout)
        if place.manifest_uri not in {info.uri for info in objects}
    ]
    store.delete(info.uri for objects in abandoned for info in objects)
    return len(abandoned) + store.abort_uploads(layout.checkpoints_uri)


def _abort_unfinished_uploads(store: ObjectStore, layout: RunLayout, incarnation: int, step: int) -> int:
    """Remove unfinished uploads of earlier incarnations, and of this one's up to a step; return how many."""

    def is_left_over(name: str) -> bool:
        place = parse_place(layout, name)
        return place is None or place.incarnation < incarnation or place.step <= step

    return store.abort_uploads(layout.checkpoints_uri, which=is_left_over)


def _remove_checkpoint(store: ObjectStore, place: Place, objects: Iterable[ObjectInfo]) -> None:
    # Manifest first: half-removed must mean uncommitted.
    uris = [info.uri for info in objects]
    store.delete([uri for uri in uris if uri == place.manifest_uri])
    store.delete([uri for uri in uris if uri != place.manifest_uri])
