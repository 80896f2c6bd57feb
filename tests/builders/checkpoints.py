"""Checkpoints as the uploader commits them, without ranks: states whose bytes tell their step."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from finetune_api.layout import RunLayout
from finetune_trainer.checkpoints import (
    CheckpointFacts,
    CheckpointManifest,
    Place,
    commit_checkpoint,
    upload_files,
)
from finetune_trainer.claims import ensure_not_superseded
from finetune_trainer.spool import SaveOrder
from finetune_trainer.storage import ObjectStore
from finetune_trainer.storage.locations import S3Location

FILES: Mapping[str, bytes] = {
    "adapter.safetensors": b"a" * 5000,
    "optimizer/rank-0.safetensors": b"o" * 7000,
    "state.json": b"{}",
}


def make_facts(step: int, incarnation: int = 1, **changes: Any) -> CheckpointFacts:
    """What a trainer says of a state; `changes` are fields of CheckpointFacts."""
    return CheckpointFacts.model_validate(
        {
            "step": step,
            "epoch": step / 10,
            "loss": 1.0,
            "world_size": 1,
            "attempt": 1,
            "incarnation": incarnation,
            "model_digest": "m",
            "dataset_digest": "d",
            **changes,
        }
    )


def make_order(facts: CheckpointFacts, files: Mapping[str, Path], **changes: Any) -> SaveOrder:
    """An order to save these files; `changes` are fields of SaveOrder."""
    return SaveOrder.model_validate(
        {
            "number": facts.step,
            "files": {name: str(path) for name, path in files.items()},
            "facts": facts,
            "node": 0,
            "nodes": 1,
            "keep_last": 2,
            "keep_best": 0,
            "step_ended": time.time(),
            **changes,
        }
    )


def state_of(step: int) -> dict[str, bytes]:
    """The files of a step's state."""
    return {name: content + str(step).encode() for name, content in FILES.items()}


def write_state(directory: Path, step: int) -> Path:
    """Write a step's state into a folder."""
    for name, content in state_of(step).items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return directory


def read_state(directory: Path) -> dict[str, bytes]:
    """All files of a folder, by their names."""
    return {name: path.read_bytes() for name, path in files_in(directory).items()}


def files_in(directory: Path) -> dict[str, Path]:
    """The files of a folder as an order names them."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path for path in paths}


def save_checkpoint(
    store: ObjectStore,
    layout: RunLayout,
    directory: Path,
    facts: CheckpointFacts,
    is_withdrawn: Callable[[], bool] = lambda: False,
) -> CheckpointManifest:
    """Upload all files of a folder and commit them, in the order in which the uploader does it."""
    ensure_not_superseded(store, layout, facts.incarnation)
    place = Place(layout, facts.step, facts.incarnation)
    entries = upload_files(store, place, files_in(directory), is_withdrawn)
    return commit_checkpoint(store, layout, facts, entries)


def committed_steps(store: ObjectStore, layout: RunLayout) -> list[int]:
    """Steps that have a manifest, the oldest first."""
    names = [info.name for info in store.list_objects(layout.checkpoints_uri)]
    return sorted(
        int(name.split("/")[0].removeprefix("step-")) for name in names if name.endswith("/manifest.json")
    )


def uncommitted_folders(store: ObjectStore, layout: RunLayout) -> set[str]:
    """Folders of checkpoints that hold objects and no manifest."""
    names = [info.name.split("/", 2) for info in store.list_objects(layout.checkpoints_uri)]
    committed = {f"{step}/{number}" for step, number, name in names if name == "manifest.json"}
    return {f"{step}/{number}" for step, number, _ in names} - committed


def begin_upload(store: ObjectStore, uri: str) -> None:
    """Upload no part of an object that would come in parts."""
    location = S3Location.parse(uri)
    store._client.create_multipart_upload(Bucket=location.bucket, Key=location.key)


def unfinished_uploads(store: ObjectStore, layout: RunLayout) -> list[str]:
    """Names of the objects of the run's folder of which parts were uploaded, and no more."""
    names: list[str] = []

    def remember(name: str) -> bool:
        names.append(name)
        return False

    store.abort_uploads(layout.run_uri, which=remember)
    return names
