"""The table is whole, says why it refuses, and what it points to is supported."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from finetune_api.spec import (
    LoRAVariant,
    MethodType,
    Offload,
    Optimizer,
    Precision,
    QuantizationType,
    Strategy,
)
from finetune_trainer.errors import UserError
from finetune_trainer.parallelism import allowed_strategies
from tests.matrix.axes import OPTIMIZERS, PRECISIONS, VARIANTS, WAYS, Combination
from tests.matrix.nearest import nearest_supported
from tests.matrix.recipes import Kitchen, decide_facts
from tests.matrix.refusals import REFUSALS, is_supported, refusals_of
from tests.matrix.runner import make_spec
from tests.matrix.table import all_cells, trainable_here


def test_every_word_of_the_api_is_in_the_table() -> None:
    specs = [make_spec(method=dict(variant.block)).method for variant in VARIANTS.values()]
    assert {spec.type for spec in specs} == set(MethodType)
    assert {spec.lora.variant for spec in specs} == set(LoRAVariant)
    assert {spec.quantization.type for spec in specs} == set(QuantizationType)
    assert {way.strategy for way in WAYS.values()} == set(Strategy) - {Strategy.AUTO}
    assert {way.offload for way in WAYS.values()} == set(Offload)
    assert set(PRECISIONS) == set(Precision) - {Precision.AUTO}
    assert set(OPTIMIZERS) == set(Optimizer)


def test_cells_have_names_of_their_own() -> None:
    assert len({cell.name for cell in all_cells()}) == len(all_cells())


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.why)
def test_every_refusal_refuses_something(refusal: object) -> None:
    assert any(refusal in refusals_of(cell) for cell in all_cells())


REFUSED = [cell for cell in all_cells() if not is_supported(cell)]


def test_what_comes_nearest_is_supported_and_for_the_same_task_on_the_same_device() -> None:
    for cell in REFUSED:
        nearest = nearest_supported(cell)
        assert is_supported(nearest)
        assert (nearest.task, nearest.device) == (cell.task, cell.device)


NEAREST = {
    "as much is split up as the method bears": (
        Combination("LoRA, DoRA", "FSDP"),
        {"way": "ZeRO2"},
    ),
    "what is offloaded stays so": (
        Combination("PromptTuning", "ZeRO3, offload OptimizerAndParameters"),
        {"way": "ZeRO2, offload Optimizer"},
    ),
    "the number format is given up before the strategy": (
        Combination("Full", "ZeRO3", "FP16"),
        {"precision": "BF16"},
    ),
    "one change is better than two": (Combination("QLoRA, NF4", "ZeRO3", "FP16"), {"way": "DDP"}),
    "the method comes last": (
        Combination("LoRA on lm_head", task="SequenceClassification"),
        {"method": "LoRA"},
    ),
}


@pytest.mark.parametrize(("cell", "changes"), NEAREST.values(), ids=NEAREST.keys())
def test_what_comes_nearest(cell: Combination, changes: dict[str, str]) -> None:
    assert asdict(nearest_supported(cell)) == {**asdict(cell), **changes}


def test_strategy_auto_takes_what_the_table_supports_and_nothing_else() -> None:
    for cell in all_cells():
        if cell.way not in ("DDP", "ZeRO2", "ZeRO3"):
            continue
        spec = make_spec(**{**cell.changes(), "parallelism__strategy": "Auto"})
        supported = not [each for each in refusals_of(cell) if "parallelism.strategy" in each.fields]
        assert (Strategy(cell.way) in allowed_strategies(spec)) == supported, cell.name


@pytest.mark.parametrize(
    "cell", [c for c in REFUSED if refusals_of(c)[-1].by == "the prepare stage"], ids=lambda c: c.name
)
def test_the_prepare_stage_refuses_what_the_table_says_it_does(cell: Combination, kitchen: Kitchen) -> None:
    spec = make_spec(**cell.changes())
    with pytest.raises(UserError, match=r"method\.lora\.targetModules names lm_head"):
        decide_facts(spec, kitchen.model("qwen3"), 10)


def test_what_is_trained_here_needs_no_gpu() -> None:
    assert {cell.optimizer for cell in trainable_here()} == {"AdamW", "AdamW8bit"}
