"""Where a run's objects stand, and what a manifest may name."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from finetune_api.layout import FileEntry, RunLayout

UID = "0f8fad5b-d9cb-469f-a165-70867728950e"


def test_a_run_stands_below_the_models_prefix_under_name_and_uid() -> None:
    layout = RunLayout("s3://models/bot/", "bot", UID)

    assert layout.run_uri == "s3://models/bot/runs/bot-0f8fad5b"
    assert layout.merged_uri == "s3://models/bot/runs/bot-0f8fad5b/merged"
    assert layout.current_uri == "s3://models/bot/current.json"


def test_checkpoints_sort_by_name_as_by_step() -> None:
    layout = RunLayout("s3://models/bot", "bot", UID)
    steps = [5, 90, 100, 12_000]

    assert sorted(layout.checkpoint_uri(step) for step in steps) == [
        layout.checkpoint_uri(step) for step in steps
    ]


@pytest.mark.parametrize("name", ["../x", "/x", "a//b", "a/../b", ".hidden", "a b", ""])
def test_a_manifest_cannot_name_a_file_outside_its_folder(name: str) -> None:
    with pytest.raises(ValidationError):
        FileEntry(name=name, size_bytes=1, sha256="0" * 64)
