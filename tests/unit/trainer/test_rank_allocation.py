"""AdaLoRA's ranks: the penalty is peft's, ranks shrink to the target, and a checkpoint has them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from finetune_trainer.rank_allocation import RankAllocation
from finetune_trainer.run_file import MethodFacts
from tests.builders.tiny_models import write_model
from tests.matrix.runner import make_spec
from tests.unit.trainer.small_trainer import SmallTrainer, disturb, load_tuned, stopping_after

TARGETS = ("q_proj", "v_proj", "down_proj")
LAYERS = 2
STEPS = 10
FACTS = MethodFacts(target_modules=TARGETS, initial_steps=2, final_steps=3)


def ada_lora(initial: int = 4, target: int = 2, **settings: Any) -> dict[str, Any]:
    return {
        "type": "AdaLoRA",
        "adaLora": {"initialRank": initial, "targetRank": target, "intervalSteps": 1, **settings},
    }


def make_cell(folder: Path, method: dict[str, Any] | None = None, **options: Any) -> SmallTrainer:
    return SmallTrainer(
        folder,
        method or ada_lora(),
        FACTS,
        steps=STEPS,
        warmup_steps=0,
        micro_batch_tokens=512,
        globalBatchSize=4,
        **options,
    )


def ranks_left(cell: SmallTrainer) -> dict[str, int]:
    return {name: int((each != 0).sum()) for name, each in cell.model.named_parameters() if "lora_E" in name}


def test_penalty_is_what_peft_adds_to_a_loss(tmp_path: Path) -> None:
    spec = make_spec(method=ada_lora(orthogonalWeight=0.7))
    tuned = load_tuned(write_model(tmp_path / "base"), spec, FACTS, steps=STEPS)
    disturb(tuned.model)
    assert tuned.allocation is not None and isinstance(tuned.model, PeftModel)
    tuner: Any = tuned.model.base_model
    # peft's own forward, around a model whose loss is known.
    inner, tuner.model.forward = tuner.model.forward, lambda: SimpleNamespace(loss=torch.tensor(3.0))
    peft_term = tuner.forward().loss - 3.0
    tuner.model.forward = inner

    penalty = tuned.allocation.penalty()
    assert penalty.item() == pytest.approx(peft_term.item(), rel=1e-6)
    directions = [
        each for name, each in tuned.model.named_parameters() if "lora_A" in name or "lora_B" in name
    ]
    ours, theirs = (torch.autograd.grad(term, directions) for term in (penalty, peft_term))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_penalty_moves_weights_and_stays_out_of_the_figures(tmp_path: Path) -> None:
    with_it, without = (make_cell(tmp_path, ada_lora(orthogonalWeight=weight)) for weight in (0.5, 0.0))
    first = [cell.train()[0] for cell in (with_it, without)]
    assert first[0].loss == first[1].loss
    assert first[0].grad_norm > first[1].grad_norm
    apart = [
        name for name, value in with_it.trained().items() if not torch.equal(value, without.trained()[name])
    ]
    assert len(apart) > len(TARGETS) * LAYERS


def test_penalty_is_added_once_however_a_step_is_split(tmp_path: Path) -> None:
    whole, split = (
        SmallTrainer(tmp_path, ada_lora(), FACTS, steps=STEPS, micro_batch_tokens=tokens, maxGradNorm=1000)
        for tokens in (10_000, 16)
    )
    assert split.batches.micro_batches_of_step(0) > 4 > whole.batches.micro_batches_of_step(0)
    assert split.train()[0].grad_norm == pytest.approx(whole.train()[0].grad_norm, rel=1e-4)


def test_ranks_shrink_to_the_target_and_stay_there(tmp_path: Path) -> None:
    cell = make_cell(tmp_path)
    sums: list[int] = []
    keep = cell.recorder.on_step_end

    def note(*given: Any, **kwargs: Any) -> None:
        keep(*given, **kwargs)
        sums.append(sum(ranks_left(cell).values()))

    cell.recorder.on_step_end = note  # type: ignore[method-assign]
    cell.train()
    start, end = 4 * len(TARGETS) * LAYERS, 2 * len(TARGETS) * LAYERS
    assert sums[:3] == [start] * 3
    assert sums[3] < start
    assert sums[-3:] == [end] * 3
    # By importance, not evenly.
    assert len(set(ranks_left(cell).values())) > 1


def test_equal_ranks_are_never_taken_away(tmp_path: Path) -> None:
    """targetRank may be initialRank: then AdaLoRA is LoRA with orthogonal directions."""
    method = ada_lora(initial=3, target=3)
    cell = make_cell(tmp_path, method)
    cell.train()
    assert set(ranks_left(cell).values()) == {3}
    checkpoint = cell.save(tmp_path / "checkpoint")
    fresh = load_tuned(tmp_path / "base", cell.spec, FACTS, steps=STEPS, checkpoint=checkpoint)
    for name, each in fresh.model.named_parameters():
        assert not each.requires_grad or torch.equal(each, cell.trained()[name])
    cell.tuned.save_result(tmp_path / "trained", cell.trainer.engine.state, is_leader=True)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    loaded = dict(PeftModel.from_pretrained(base, tmp_path / "trained").named_parameters())
    assert all(torch.equal(value, loaded[name]) for name, value in cell.trained().items())


def test_a_checkpoint_brings_ranks_and_importance_back(tmp_path: Path) -> None:
    cell = make_cell(tmp_path)
    cell.train()
    allocation = cell.tuned.allocation
    assert allocation is not None
    # As in the midst of a run: at its end peft has forgotten how much each rank matters.
    for parameter in cell.model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn_like(parameter)
    allocation.update(4)
    allocation.save(tmp_path)

    fresh = load_tuned(tmp_path / "base", cell.spec, FACTS, steps=STEPS).allocation
    assert fresh is not None
    fresh.restore(tmp_path)
    assert state_of(fresh) == state_of(allocation)
    memories, again = (memories_of(each) for each in (allocation, fresh))
    assert set(memories) == set(again)
    assert len(memories) == 3 * 3 * len(TARGETS) * LAYERS
    assert all(torch.equal(value, again[name]) for name, value in memories.items())


def state_of(allocation: RankAllocation) -> Any:
    pattern = allocation._tuner.peft_config["default"].rank_pattern
    assert pattern and any(False in mask for mask in pattern.values())
    return pattern


def memories_of(allocation: RankAllocation) -> dict[str, torch.Tensor]:
    allocator = allocation._tuner.rankallocator
    return {
        f"{kind} {name}": tensor
        for kind in ("ipt", "exp_avg_ipt", "exp_avg_unc")
        for name, tensor in getattr(allocator, kind).items()
    }


@pytest.mark.parametrize("stop_after", [2, 5, 8], ids=["before", "while", "after"])
def test_a_run_that_is_interrupted_while_ranks_shrink_is_the_whole_run(
    stop_after: int, tmp_path: Path
) -> None:
    whole = make_cell(tmp_path)
    losses = [figures.loss for figures in whole.train()]
    begun = make_cell(tmp_path, signals=stopping_after(stop_after))
    begun.train()
    rest = make_cell(tmp_path, checkpoint=begun.save(tmp_path / "checkpoint"))
    assert [figures.loss for figures in rest.train()] == losses[stop_after:]
    assert ranks_left(rest) == ranks_left(whole)
    assert all(torch.equal(value, whole.trained()[name]) for name, value in rest.trained().items())
