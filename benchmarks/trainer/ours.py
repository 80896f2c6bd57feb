"""The project's own trainer in a process of its own, on the rivals' rows and weights; prints JSON.

    python -m benchmarks.trainer.ours train --workload workload.json
    python -m benchmarks.trainer.ours compare --workload workload.json

Nothing else of this benchmark knows how the trainer is built.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from finetune_trainer.unused_packages import leave_out_unused_packages

# As the rank does it: before torch is imported.
leave_out_unused_packages()

import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.functional import cosine_similarity, cross_entropy  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

from benchmarks.trainer.meter import RunMeter  # noqa: E402
from benchmarks.trainer.workload import LORA_ALPHA, LORA_RANK, Workload  # noqa: E402
from finetune_api.spec import Method, Offload, Precision, Scheduler, Task, Training  # noqa: E402
from finetune_trainer.adapters import build_adapter_config  # noqa: E402
from finetune_trainer.data.batches import DataOrder  # noqa: E402
from finetune_trainer.data.prepared import PreparedRows  # noqa: E402
from finetune_trainer.data.step_batches import PackedRows, StepBatch, StepBatches, pack_rows  # noqa: E402
from finetune_trainer.engines import build_engine  # noqa: E402
from finetune_trainer.gang import Gang  # noqa: E402
from finetune_trainer.logs import quiet_libraries  # noqa: E402
from finetune_trainer.micro_batch_bound import decide_micro_batch_bound  # noqa: E402
from finetune_trainer.model import BaseModelSettings, decide_precision, load_base_model  # noqa: E402
from finetune_trainer.parallelism import ParallelPlan  # noqa: E402
from finetune_trainer.run_file import MethodFacts  # noqa: E402
from finetune_trainer.schedules import plan_schedule  # noqa: E402
from finetune_trainer.step_figures import StepMeter  # noqa: E402
from finetune_trainer.training import FineTuneTrainer, training_arguments  # noqa: E402
from finetune_trainer.tuned_model import tune  # noqa: E402

_LINEAR_LAYERS = ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
_CPU = torch.device("cpu")
_ALONE = Gang(rank=0, local_rank=0, world_size=1, device=_CPU)
_PLAN = ParallelPlan(strategy=None, offload=Offload.NONE, reason="one process")
# Rows that are compared, packed and one by one.
_COMPARED_ROWS = 16


def main(arguments: list[str]) -> int:
    """Train one workload, or compare packed rows with rows computed one by one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["train", "compare"])
    parser.add_argument("--workload", type=Path, required=True)
    parser.add_argument("--memory-after-step", type=int)
    options = parser.parse_args(arguments)
    workload = Workload.load(options.workload)
    torch.set_num_threads(workload.threads)
    quiet_libraries()
    if options.what == "train":
        print(json.dumps(train(workload, RunMeter(options.memory_after_step))))
    else:
        print(json.dumps(compare(workload)))
    return 0


# --- training --------------------------------------------------------------------------------------------------


def train(workload: Workload, meter: RunMeter) -> dict[str, Any]:
    """Run the steps; what the meter saw."""
    with tempfile.TemporaryDirectory() as folder:
        build_trainer(workload, meter, Path(folder)).train()
    return meter.result(workload.skipped_steps)


def build_trainer(workload: Workload, meter: RunMeter, folder: Path) -> FineTuneTrainer:
    """The trainer as a rank builds it, with nothing beside it but the meter."""
    training = Training.model_validate(
        {
            "maxSteps": workload.steps,
            "learningRate": workload.learning_rate,
            "scheduler": Scheduler.CONSTANT,
            "globalBatchSize": workload.global_batch_size,
            "microBatchTokens": workload.micro_batch_tokens,
            "seed": workload.seed,
        }
    )
    method = Method.model_validate(
        {"type": "Full"}
        if workload.method == "Full"
        else {"type": "LoRA", "lora": {"rank": LORA_RANK, "alpha": LORA_ALPHA, "dropout": 0.0}}
    )
    precision = decide_precision(Precision(workload.precision.upper()), _CPU.type, method.type)
    trainer = _MeteredTrainer(
        # The rivals' frozen weights are fp32 too.
        model=build_model(workload, method),
        args=training_arguments(
            training,
            _ALONE,
            total_steps=workload.steps,
            schedule=plan_schedule(training.scheduler, warmup_steps=0, decay_steps=0),
            precision=precision,
            directory=folder,
        ),
        batches=build_batches(workload, training),
        gang=_ALONE,
        meter=StepMeter(),
        build_engine=partial(build_engine, _PLAN, training, None, precision, _ALONE),
    )
    trainer.run_meter = meter
    trainer.add_callback(meter)
    return trainer


def build_model(workload: Workload, method: Method) -> nn.Module:
    """The base model, with an adapter where the workload wants one."""
    base = load_base_model(
        workload.model,
        BaseModelSettings(torch.float32, _CPU, recomputes_activations=bool(workload.gradient_checkpointing)),
    )
    facts = MethodFacts(target_modules=_LINEAR_LAYERS)
    config = build_adapter_config(
        method, facts, Task.CAUSAL_LM, total_steps=workload.steps, tokenizer=workload.model
    )
    source = str(workload.model)
    tuned = tune(base, method, config, model_source=source, earlier_adapter=None, checkpoint=None)
    model: nn.Module = tuned.model
    return model


def build_batches(workload: Workload, training: Training) -> StepBatches:
    """The rows in their order, packed."""
    rows = PreparedRows(workload.rows)
    return StepBatches(
        rows=rows,
        order=DataOrder(len(rows), workload.global_batch_size, workload.seed),
        first_step=0,
        total_steps=workload.steps,
        rank=0,
        world_size=1,
        micro_batch_tokens=decide_micro_batch_bound(training, _CPU.type, 0).tokens,
    )


class _MeteredTrainer(FineTuneTrainer):
    run_meter: RunMeter

    def training_step(self, model: nn.Module, inputs: StepBatch, *more: Any) -> torch.Tensor:  # noqa: ANN401
        # What reaches the model, dummy tokens included, against what the rows have.
        computed = sum(rows.input_ids.numel() for rows in inputs.micro_batches)
        self.run_meter.count(computed, inputs.tokens)
        loss = super().training_step(model, inputs, *more)
        self.run_meter.add_loss(float(loss))
        return loss


# --- packed = unpacked -----------------------------------------------------------------------------------------


def compare(workload: Workload) -> dict[str, Any]:
    """Compare packed rows with transformers' own model on one row at a time, in every mode, and look for leaks."""
    rows = PreparedRows(workload.rows)
    chosen = list(range(min(_COMPARED_ROWS, len(rows))))
    return {
        f"{mode}, {'recomputed' if recomputes else 'kept'} activations": _compare(
            replace(workload, gradient_checkpointing=recomputes), rows, chosen, is_training=mode == "train"
        )
        for mode in ("train", "eval")
        for recomputes in (False, True)
    }


def _compare(
    workload: Workload, rows: PreparedRows, chosen: Sequence[int], *, is_training: bool
) -> dict[str, float]:
    model = build_model(workload, Method.model_validate({"type": "Full"})).train(is_training)
    packed = pack_rows(rows, chosen)
    losses = _packed_losses(model, packed)
    gradient = _gradient(model)
    expected_losses, expected_gradient = _losses_one_by_one(workload, rows, chosen, is_training=is_training)
    first = packed.document_lengths[0]
    of_first = int((packed.learned.indices < first).sum())
    other = packed.input_ids.clone()
    other[0, :first] = other[0, :first].flip(0)
    leaked = _packed_losses(model, replace(packed, input_ids=other))[of_first:] - losses[of_first:]
    return {
        "lossDifference": float((losses - expected_losses).abs().max()),
        "gradientCosine": float(cosine_similarity(gradient, expected_gradient, dim=0)),
        "leak": float(leaked.abs().max()),
        "tokens": float(packed.input_ids.numel()),
        "documents": float(len(packed.document_lengths)),
    }


def _packed_losses(model: nn.Module, packed: PackedRows) -> torch.Tensor:
    model.zero_grad()
    outputs = model(**packed.model_inputs())
    outputs["summed_loss"].backward()
    losses: torch.Tensor = outputs["position_losses"]
    return losses


def _losses_one_by_one(
    workload: Workload, rows: PreparedRows, chosen: Sequence[int], *, is_training: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(workload.model, dtype=torch.float32).train(is_training)
    losses = []
    for row in chosen:
        ids = torch.from_numpy(rows.row_input_ids(row).astype("int64"))
        learned = torch.from_numpy(rows.row_learned(row).astype(bool))[1:]
        logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1]
        of_row = cross_entropy(logits[learned], ids[1:][learned], reduction="none")
        torch.autograd.backward(of_row.sum())
        losses.append(of_row.detach())
    return torch.cat(losses), _gradient(model)


def _gradient(model: nn.Module) -> torch.Tensor:
    return torch.cat([each.grad.flatten().double() for each in model.parameters() if each.grad is not None])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
