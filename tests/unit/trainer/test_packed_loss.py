"""Packed rows give the loss and the gradients of rows that stand alone, for every supported architecture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from finetune_trainer.attention import (
    PACKED_ATTENTION,
    packed_attention,
    register_packed_attention,
)
from finetune_trainer.data.batches import DataOrder
from finetune_trainer.data.prepared import PreparedRows
from finetune_trainer.data.step_batches import MicroRows, PackedRows, StepBatches, pack_rows
from finetune_trainer.losses import replace_forward
from tests.builders.rows import write_prepared_rows
from tests.builders.tiny_models import ARCHITECTURES, make_config

LENGTHS = [5, 17, 1, 9, 33, 2]


@pytest.fixture
def rows(tmp_path: Path) -> PreparedRows:
    return write_prepared_rows(tmp_path / "rows.arrow", LENGTHS)


def make_model(architecture: str, attention: str = PACKED_ATTENTION, **changes: object) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    register_packed_attention()
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(
        make_config(architecture, **changes), attn_implementation=attention
    )


def packed_loss(model: PreTrainedModel, packed: PackedRows) -> torch.Tensor:
    loss: torch.Tensor = model(**packed.model_inputs())["summed_loss"]
    return loss


def reference_loss(model: PreTrainedModel, rows: PreparedRows) -> torch.Tensor:
    """Full logits of each row by itself, through transformers' own attention and forward."""
    total = torch.zeros(())
    for row in range(len(rows)):
        ids = torch.tensor(rows.row_input_ids(row).tolist())
        labels = torch.where(torch.tensor(rows.row_learned(row).tolist()) > 0, ids, -100)
        logits = model(input_ids=ids[None]).logits[0]
        total = total + torch.nn.functional.cross_entropy(
            logits[:-1].float(), labels[1:], reduction="sum", ignore_index=-100
        )
    return total


def gradient(model: PreTrainedModel) -> torch.Tensor:
    return torch.cat(
        [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("chunk_positions", [7, 10_000], ids=["in chunks", "at once"])
def test_packed_equals_rows_by_themselves(
    architecture: str, chunk_positions: int, rows: PreparedRows
) -> None:
    reference = make_model(architecture, "sdpa")
    wanted = reference_loss(reference, rows)
    torch.autograd.backward(wanted)

    model = make_model(architecture)
    replace_forward(model, chunk_positions=chunk_positions)
    loss = packed_loss(model, pack_rows(rows, range(len(rows))))
    torch.autograd.backward(loss)

    assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    torch.testing.assert_close(gradient(model), gradient(reference), rtol=1e-4, atol=1e-5)


def hidden_states(model: PreTrainedModel, packed: PackedRows, ids: torch.Tensor) -> torch.Tensor:
    """The decoder's states [tokens, hidden] over the packed rows, with other tokens in their places."""
    outputs = model.model(
        input_ids=ids,
        position_ids=packed.position_ids,
        document_lengths=packed.document_lengths,
        use_cache=False,
    )
    states: torch.Tensor = outputs.last_hidden_state[0]
    return states


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_token_sees_another_row(architecture: str, rows: PreparedRows) -> None:
    model = make_model(architecture).eval()
    packed = pack_rows(rows, range(len(rows)))
    changed_ids = packed.input_ids.clone()
    changed_ids[0, : LENGTHS[0]] = (changed_ids[0, : LENGTHS[0]] + 1) % 256
    with torch.no_grad():
        before, after = (hidden_states(model, packed, ids) for ids in (packed.input_ids, changed_ids))
    assert torch.equal(before[LENGTHS[0] :], after[LENGTHS[0] :])
    assert not torch.equal(before[: LENGTHS[0]], after[: LENGTHS[0]])


def test_sliding_window_is_kept(rows: PreparedRows) -> None:
    settings = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0}
    reference, model = (make_model("qwen2", kind, **settings) for kind in ("sdpa", PACKED_ATTENTION))
    assert "sliding_attention" in reference.config.layer_types
    replace_forward(model)
    loss = packed_loss(model, pack_rows(rows, range(len(rows))))
    assert loss.item() == pytest.approx(reference_loss(reference, rows).item(), rel=1e-6)


def test_attention_without_row_lengths_is_refused() -> None:
    query = torch.zeros(1, 2, 3, 4)
    with pytest.raises(TypeError, match="document_lengths"):
        packed_attention(torch.nn.Identity(), query, query, query, None)  # type: ignore[call-arg]


def test_dummy_reaches_every_parameter_with_a_gradient_of_zero(rows: PreparedRows) -> None:
    model = make_model("qwen3", tie_word_embeddings=False)
    replace_forward(model)
    loss = packed_loss(model, pack_rows(rows, []))
    torch.autograd.backward(loss)
    assert loss.item() == 0.0
    without = [name for name, parameter in model.model.named_parameters() if parameter.grad is None]
    assert without == []
    assert all(not parameter.grad.any() for parameter in model.model.parameters())


def step_gradient(rows: PreparedRows, world_size: int, micro_batch_tokens: int) -> tuple[float, torch.Tensor]:
    """Loss and gradient of a step as ranks and micro-batches add them up."""
    model = make_model("qwen3")
    replace_forward(model)
    total = 0.0
    for rank in range(world_size):
        batches = StepBatches(rows, DataOrder(len(rows), 6, 0), 0, 1, rank, world_size, micro_batch_tokens)
        step = batches.step_batch(0)
        for micro_batch in step.micro_batches:
            assert isinstance(micro_batch, PackedRows)
            loss = packed_loss(model, micro_batch) / step.learned_tokens
            torch.autograd.backward(loss)
            total += loss.item()
    return total, gradient(model)


@pytest.mark.parametrize(
    ("world_size", "micro_batch_tokens"), [(1, 20), (1, 8), (2, 10_000), (3, 20), (8, 10_000)]
)
def test_step_is_the_same_however_it_is_split(
    world_size: int, micro_batch_tokens: int, rows: PreparedRows
) -> None:
    whole_loss, whole_gradient = step_gradient(rows, 1, 10_000)
    loss, split_gradient = step_gradient(rows, world_size, micro_batch_tokens)
    assert loss == pytest.approx(whole_loss, rel=1e-6)
    torch.testing.assert_close(split_gradient, whole_gradient, rtol=1e-4, atol=1e-6)


def test_first_token_of_a_row_is_never_learned(tmp_path: Path) -> None:
    rows = write_prepared_rows(tmp_path / "rows", [1, 2])
    packed = pack_rows(rows, [0, 1])
    assert packed.learned.indices.tolist() == [1]
    assert packed.learned.targets.tolist() == [rows.row_input_ids(1)[1]]


def test_positions_begin_again_with_every_row(rows: PreparedRows) -> None:
    packed = pack_rows(rows, [0, 3])
    assert packed.position_ids[0].tolist() == [*range(5), *range(9)]


def positions_of(batches: Sequence[MicroRows]) -> int:
    return sum(len(batch.learned.targets) for batch in batches)


def test_learned_tokens_of_a_step_are_counted_over_all_ranks(rows: PreparedRows) -> None:
    order = DataOrder(len(rows), 6, 0)
    steps = [StepBatches(rows, order, 0, 1, rank, 2, 20).step_batch(0) for rank in range(2)]
    assert {step.learned_tokens for step in steps} == {sum(positions_of(s.micro_batches) for s in steps)}
    assert {step.tokens for step in steps} == {sum(LENGTHS)}


def test_run_can_begin_at_any_step(rows: PreparedRows) -> None:
    order = DataOrder(len(rows), 4, 0)
    whole, rest = (StepBatches(rows, order, first, 9, 0, 1, 64) for first in (0, 5))
    assert len(rest) == 4
    for one, other in zip(list(whole)[5:], rest, strict=True):
        assert torch.equal(one.micro_batches[0].input_ids, other.micro_batches[0].input_ids)
