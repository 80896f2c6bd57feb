"""Rows one below the other: the loss and the gradient of packed rows and of rows by themselves, in every way to compute them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, PreTrainedModel

from finetune_api.spec import Task
from finetune_trainer.attention import PACKED_ATTENTION, register_packed_attention
from finetune_trainer.data.batches import DataOrder, StandingOrder, split_step_padded
from finetune_trainer.data.prepared import PreparedRows
from finetune_trainer.data.step_batches import (
    LearnedPositions,
    MicroRows,
    PaddedRows,
    StepBatches,
    pack_rows,
    pad_rows,
)
from finetune_trainer.losses import chunked_losses, replace_forward
from tests.builders.rows import write_prepared_rows
from tests.builders.tiny_models import ARCHITECTURES, make_config
from tests.unit.trainer.small_trainer import write_rows_of_sources

LENGTHS = (5, 17, 1, 9, 33, 2)
ALL = tuple(range(len(LENGTHS)))


@pytest.fixture
def rows(tmp_path: Path) -> PreparedRows:
    return write_prepared_rows(tmp_path / "rows.arrow", LENGTHS)


def make_model(architecture: str = "qwen3", attention: str = "sdpa", **changes: Any) -> PreTrainedModel:
    register_packed_attention()
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(
        make_config(architecture, **changes), attn_implementation=attention
    )
    return model


def make_losing(attention: str, *, checkpoints: bool = False, architecture: str = "qwen3") -> PreTrainedModel:
    """A model whose forward is the loss, as load_base_model prepares it."""
    model = make_model(architecture, attention)
    model.config.use_cache = False
    if checkpoints:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    replace_forward(model)
    return model


def loss_of(model: nn.Module, rows: MicroRows) -> torch.Tensor:
    loss: torch.Tensor = model(**rows.model_inputs())["summed_loss"]
    return loss


def full_logits_loss(model: PreTrainedModel, rows: PreparedRows) -> torch.Tensor:
    """Each row by itself through transformers' own forward, whose logits are all there at once."""
    total = torch.zeros(())
    for row in range(len(rows)):
        ids = torch.tensor(rows.row_input_ids(row).tolist())
        labels = torch.where(torch.tensor(rows.row_learned(row).tolist()) > 0, ids, -100)
        logits = model(input_ids=ids[None]).logits[0]
        total = total + cross_entropy(logits[:-1].float(), labels[1:], reduction="sum", ignore_index=-100)
    return total


def gradient(model: nn.Module) -> torch.Tensor:
    return torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None])


# --- one loss, however it is computed ------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("checkpoints", [False, True], ids=["kept activations", "activations computed twice"])
@pytest.mark.parametrize("is_training", [True, False], ids=["train", "eval"])
def test_padded_equals_packed_equals_rows_by_themselves(
    architecture: str, checkpoints: bool, is_training: bool, rows: PreparedRows
) -> None:
    reference = make_model(architecture).train(is_training)
    wanted = full_logits_loss(reference, rows)
    torch.autograd.backward(wanted)
    for attention, lay_out in ((PACKED_ATTENTION, pack_rows), ("sdpa", pad_rows)):
        model = make_losing(attention, checkpoints=checkpoints, architecture=architecture)
        loss = loss_of(model.train(is_training), lay_out(rows, ALL))
        torch.autograd.backward(loss)
        assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
        torch.testing.assert_close(gradient(model), gradient(reference), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("with_others", [(0, 4), (3, 4), ALL], ids=["two", "others", "all"])
def test_no_row_is_changed_by_the_padding_beside_it(with_others: Sequence[int], rows: PreparedRows) -> None:
    model = make_losing("sdpa").eval()
    with torch.no_grad():
        together = float(loss_of(model, pad_rows(rows, with_others)))
        alone = sum(float(loss_of(model, pad_rows(rows, [row]))) for row in with_others)
    assert together == pytest.approx(alone, rel=1e-6)


def test_what_stands_in_the_padding_changes_nothing(rows: PreparedRows) -> None:
    model = make_losing("sdpa").eval()
    padded = pad_rows(rows, ALL)
    assert (padded.attention_mask == 0).any()
    other_ids = torch.where(padded.attention_mask > 0, padded.input_ids, 77)
    changed = PaddedRows(other_ids, padded.attention_mask, padded.learned)
    with torch.no_grad():
        before, after = (model(**each.model_inputs())["position_losses"] for each in (padded, changed))
    assert torch.equal(before, after)


def test_padded_rows_lie_at_the_beginning_and_know_their_places(rows: PreparedRows) -> None:
    padded = pad_rows(rows, [0, 3], most_of_any_rank=9)
    assert padded.input_ids.shape == (2, 9)
    assert padded.attention_mask.sum(dim=1).tolist() == [5, 9]
    assert padded.input_ids[0, :5].tolist() == rows.row_input_ids(0).tolist()
    # Row 0 learns tokens 2, 3, 4 at the places before them, row 3 from token 4 on.
    assert padded.learned.indices.tolist() == [1, 2, 3, *(9 + place for place in range(3, 8))]
    assert padded.learned.targets.tolist() == [
        *rows.row_input_ids(0).tolist()[2:],
        *rows.row_input_ids(3).tolist()[4:],
    ]
    assert padded.learned.most_of_any_rank == 9
    assert padded.model_inputs()["row_length"] == 9


def test_no_rows_at_all_reach_every_parameter_with_a_gradient_of_zero(rows: PreparedRows) -> None:
    model = make_losing("sdpa")
    loss = loss_of(model, pad_rows(rows, []))
    torch.autograd.backward(loss)
    assert loss.item() == 0.0
    assert [name for name, each in model.named_parameters() if each.grad is None] == []
    assert not gradient(model).any()


def test_classes_are_read_at_each_rows_last_token(tmp_path: Path) -> None:
    rows = write_rows_of_sources(tmp_path / "rows", LENGTHS, classes=3)
    task = Task.SEQUENCE_CLASSIFICATION
    padded, packed = pad_rows(rows, ALL, task), pack_rows(rows, ALL, task)
    ends = [sum(LENGTHS[: row + 1]) - 1 for row in ALL]
    assert packed.learned.indices.tolist() == ends
    assert padded.learned.indices.tolist() == [33 * row + LENGTHS[row] - 1 for row in ALL]
    labels = [rows.row_label(row) for row in ALL]
    assert padded.learned.targets.tolist() == packed.learned.targets.tolist() == labels
    assert len(set(labels)) > 1


# --- in chunks -----------------------------------------------------------------------------------------------------


def make_tuned(adapts_head: bool, tied: bool) -> Any:
    model = make_model("qwen3", PACKED_ATTENTION, tie_word_embeddings=tied)
    if not adapts_head:
        return model
    config = LoraConfig(r=4, target_modules=["q_proj", "lm_head"], init_lora_weights=False)
    return get_peft_model(model, config)


@pytest.mark.parametrize("chunk_positions", [1, 5, 33, 34, 10_000])
@pytest.mark.parametrize("adapts_head", [False, True], ids=["all weights", "LoRA on the head"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_loss_in_chunks_is_that_of_all_logits(
    chunk_positions: int, adapts_head: bool, tied: bool, rows: PreparedRows
) -> None:
    packed = pack_rows(rows, ALL)
    # Before peft wraps it, as in load_base_model; its adapter is then called inside the head.
    reference, model = (make_tuned(adapts_head, tied) for _ in range(2))
    causal = model.get_base_model() if adapts_head else model
    replace_forward(causal, chunk_positions=chunk_positions)

    logits = reference(
        input_ids=packed.input_ids,
        position_ids=packed.position_ids,
        document_lengths=packed.document_lengths,
        use_cache=False,
    ).logits[0]
    wanted = cross_entropy(logits[packed.learned.indices], packed.learned.targets, reduction="sum")
    loss = loss_of(model, packed)
    for term in (wanted, loss):
        torch.autograd.backward(term)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    torch.testing.assert_close(gradient(model), gradient(reference), rtol=1e-4, atol=1e-5)


class CountingHead(nn.Linear):
    """A head that knows how often it was called, and for how many positions."""

    def __init__(self) -> None:
        super().__init__(8, 11, bias=False)
        self.sizes: list[int] = []

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Count, and compute."""
        self.sizes.append(len(hidden))
        return super().forward(hidden)


def learned_of(count: int, most: int) -> LearnedPositions:
    places = torch.arange(count)
    return LearnedPositions(places, places % 11, torch.zeros(count, dtype=torch.long), most)


@pytest.mark.parametrize(
    ("counts", "chunk_positions", "calls"),
    [
        pytest.param((20, 20), 8, 3, id="as many on both"),
        pytest.param((20, 3), 8, 3, id="few on one"),
        pytest.param((20, 0), 8, 3, id="none on one"),
        pytest.param((20, 21), 20, 2, id="one more than a chunk on one"),
        pytest.param((7, 2), 8, 1, id="a single chunk"),
        pytest.param((0, 0), 8, 1, id="nothing anywhere"),
    ],
)
def test_every_rank_calls_the_head_equally_often(
    counts: tuple[int, int], chunk_positions: int, calls: int
) -> None:
    """Where its weights are split up, each call brings them together: forwards, and once more backwards."""
    torch.manual_seed(0)
    plain = nn.Linear(8, 11, bias=False)
    for count in counts:
        head = CountingHead()
        head.load_state_dict(plain.state_dict())
        hidden = torch.randn(count, 8, requires_grad=True)
        learned = learned_of(count, max(counts))
        losses = chunked_losses(head, hidden, learned, chunk_positions)
        assert len(head.sizes) == calls
        assert sum(head.sizes) == count
        assert max(head.sizes) <= chunk_positions
        torch.autograd.backward(losses.sum())
        assert len(head.sizes) == (calls if calls == 1 else 2 * calls)
        wanted = cross_entropy(plain(hidden), learned.targets, reduction="none")
        torch.testing.assert_close(losses, wanted)


def test_ranks_are_told_the_most_that_any_of_them_learns(rows: PreparedRows) -> None:
    order = DataOrder(len(rows), 6, 0)
    for is_packed in (True, False):
        ranks = [
            StepBatches(rows, order, 0, 1, rank, 3, 20, is_packed=is_packed).step_batch(0)
            for rank in range(3)
        ]
        for at_the_same_time in zip(*(rank.micro_batches for rank in ranks), strict=True):
            counts = [len(each.learned.targets) for each in at_the_same_time]
            assert {each.learned.most_of_any_rank for each in at_the_same_time} >= {max(counts)}
            assert len({each.learned.most_of_any_rank for each in at_the_same_time}) == 1


# --- how rows are spread -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("bound", [1, 64, 300, 100_000])
def test_padded_split_keeps_every_row_once_within_the_bound_and_as_many_on_every_rank(
    world_size: int, bound: int
) -> None:
    draw = random.Random(world_size * bound)
    for count in (1, 2, 7, 50):
        lengths = [draw.randint(1, 120) for _ in range(count)]
        shares = split_step_padded(lengths, world_size, bound)
        assert len(shares) == world_size
        assert len({len(share) for share in shares}) == 1
        assert sorted(row for share in shares for batch in share for row in batch) == list(range(count))
        for share in shares:
            for batch in share:
                longest = max((lengths[row] for row in batch), default=0)
                assert len(batch) <= 1 or len(batch) * longest <= bound


def test_rows_of_similar_length_come_together() -> None:
    lengths = [10, 100, 11, 99, 12, 101]
    shares = split_step_padded(lengths, world_size=1, micro_batch_tokens=303)
    assert shares == (((1, 3, 5), (0, 2, 4)),)


def test_ranks_without_rows_get_empty_micro_batches() -> None:
    assert split_step_padded([10, 10], world_size=3, micro_batch_tokens=10) == (((0,),), ((1,),), ((),))


@pytest.mark.parametrize(("count", "at_once"), [(10, 4), (8, 4), (3, 100), (1, 1)])
def test_standing_order_takes_rows_as_they_stand(count: int, at_once: int) -> None:
    order = StandingOrder(count, at_once)
    steps = [order.rows_of_step(step) for step in range(order.steps_per_epoch)]
    assert [row for step in steps for row in step] == list(range(count))
    assert all(len(step) == at_once for step in steps[:-1])
    assert 0 < len(steps[-1]) <= at_once


# --- accumulation --------------------------------------------------------------------------------------------------


def step_gradient(
    rows: PreparedRows, world_size: int, micro_batch_tokens: int, *, is_packed: bool, task: Task
) -> tuple[float, torch.Tensor]:
    """Loss and gradient of a step as ranks and micro-batches add them up."""
    model = make_losing(PACKED_ATTENTION if is_packed else "sdpa")
    if task is Task.SEQUENCE_CLASSIFICATION:
        torch.manual_seed(1)
        model.score = nn.Linear(64, 3, bias=False)
        model.config.num_labels = 3
        replace_forward(model, task)
    total = 0.0
    for rank in range(world_size):
        order = DataOrder(len(rows), 6, 0)
        batches = StepBatches(
            rows, order, 0, 1, rank, world_size, micro_batch_tokens, task=task, is_packed=is_packed
        )
        step = batches.step_batch(0)
        for micro_batch in step.micro_batches:
            loss = loss_of(model, micro_batch) / step.learned_tokens
            torch.autograd.backward(loss)
            total += loss.item()
    return total, gradient(model)


@pytest.mark.parametrize("task", list(Task))
@pytest.mark.parametrize("is_packed", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize(
    ("world_size", "micro_batch_tokens"), [(1, 20), (1, 1), (2, 10_000), (3, 40), (8, 10_000)]
)
def test_step_is_the_same_however_it_is_split(
    task: Task, is_packed: bool, world_size: int, micro_batch_tokens: int, tmp_path: Path
) -> None:
    rows = write_rows_of_sources(tmp_path / "rows", LENGTHS, classes=3)
    whole_loss, whole_gradient = step_gradient(rows, 1, 10_000, is_packed=True, task=task)
    loss, split_gradient = step_gradient(rows, world_size, micro_batch_tokens, is_packed=is_packed, task=task)
    assert loss == pytest.approx(whole_loss, rel=1e-6)
    torch.testing.assert_close(split_gradient, whole_gradient, rtol=1e-4, atol=1e-6)
