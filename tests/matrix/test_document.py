"""docs/support-matrix.md is what the table says."""

from __future__ import annotations

from tests.matrix.axes import Combination
from tests.matrix.document import PATH, build_document, explain
from tests.matrix.summary import load_summary
from tests.matrix.table import trainable_here


def test_the_document_is_up_to_date() -> None:
    fresh = build_document(load_summary())
    assert PATH.read_text(encoding="utf-8") == fresh, "run `python -m tests.matrix.document`"


def test_the_last_run_was_of_the_whole_table() -> None:
    assert [cell.cell for cell in load_summary().cells] == [cell.name for cell in trainable_here()]


def test_a_note_names_fields_reason_and_way_out() -> None:
    assert explain(Combination("QLoRA, NF4", "FSDP")) == (
        "`method.type`, `parallelism.strategy`: quantized weights cannot be split up. Nearest: `strategy: ZeRO2`."
    )
