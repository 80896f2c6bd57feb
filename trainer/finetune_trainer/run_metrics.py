"""`metrics.jsonl` in the run's folder: written over and over by the run's only writer, by nobody who was replaced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from finetune_api.layout import RunLayout
from finetune_trainer.claims import ensure_not_superseded
from finetune_trainer.errors import StorageUnavailable
from finetune_trainer.storage import ObjectStore

# In a checkpoint, and in the pod's working folder.
METRICS_NAME = "metrics.jsonl"
_ATTEMPTS = 5


def publish_metrics(
    store: ObjectStore,
    layout: RunLayout,
    path: Path,
    incarnation: int,
    is_wanted: Callable[[], bool] = lambda: True,
) -> None:
    """Put the metrics into the run's folder. Raises Superseded if the run has a newer writer.

    A pod that is frozen after the check and wakes up much later names the version that it has seen, which its successor
    has replaced: its write changes nothing. Stores that ignore If-Match are protected by the check alone.
    """
    data = path.read_bytes()
    for _ in range(_ATTEMPTS):
        version = store.read_version(layout.metrics_uri)
        ensure_not_superseded(store, layout, incarnation)
        # Asked after the version was read: what a newer state writes from here on has another one.
        if not is_wanted():
            return
        if store.replace_bytes(layout.metrics_uri, data, etag=version[1] if version else None):
            return
    raise StorageUnavailable(
        f"{layout.metrics_uri} was changed by others {_ATTEMPTS} times in a row. The attempt is made again."
    )
