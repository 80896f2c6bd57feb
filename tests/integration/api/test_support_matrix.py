"""The support matrix and the API server's rules are the same: every cell's job is asked for, none is created."""

from __future__ import annotations

import pytest

from tests.builders.jobs import make_manifest
from tests.integration.operator.api_client import FINETUNE, Api, RequestRefused
from tests.matrix.axes import Combination
from tests.matrix.nearest import nearest_supported, new_settings
from tests.matrix.refusals import refusals_of
from tests.matrix.table import BLOCKS

DRY_RUN = "dryRun=All&fieldValidation=Strict"


@pytest.mark.parametrize("block", BLOCKS)
def test_the_api_server_refuses_what_the_table_refuses_and_nothing_else(api: Api, block: str) -> None:
    answers = {cell: ask_for(api, cell) for cell in BLOCKS[block]()}
    odd = {cell.name: odd for cell, answer in answers.items() if (odd := what_is_odd(cell, answer))}
    assert not odd


def ask_for(api: Api, cell: Combination) -> str:
    """The API server's refusal; empty where it accepts the job."""
    path = f"{api.path(FINETUNE, 'finetunejobs')}?{DRY_RUN}"
    try:
        api.send("POST", path, make_manifest(**cell.changes()))
    except RequestRefused as refusal:
        return refusal.message
    return ""


def what_is_odd(cell: Combination, answer: str) -> list[str]:
    """What in the answer is not as the table has it: both fields of every refusal, and a way out, are named."""
    refusals = [each for each in refusals_of(cell) if each.by == "the API server"]
    if not refusals:
        return [answer] if answer else []
    fields = [field for refusal in refusals for field in refusal.fields]
    ways_out = [value for _, value in new_settings(cell, nearest_supported(cell))]
    return [word for word in (*fields, *ways_out) if word not in answer]
