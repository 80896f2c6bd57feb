"""How processes share the work: what Auto becomes, who must meet, and what DeepSpeed is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from finetune_api.spec import DeepSpeed, Offload, Strategy
from finetune_trainer.parallelism import (
    ParallelPlan,
    allowed_strategies,
    build_deepspeed_config,
    decide_plan,
    may_use_deepspeed,
    needs_process_group,
)
from tests.matrix.runner import make_spec

GIB = 1024**3
DDP, ZERO1, ZERO2, ZERO3, FSDP = (
    Strategy.DDP,
    Strategy.ZERO1,
    Strategy.ZERO2,
    Strategy.ZERO3,
    Strategy.FSDP,
)
# GiB of each process, as a model of some size might take them.
NEEDS = {DDP: 40, ZERO1: 30, ZERO2: 20, ZERO3: 5, FSDP: 5}


def needs(strategy: Strategy) -> int:
    return NEEDS[strategy] * GIB


def plan(
    world_size: int, device_gib: float | None, estimate: Callable[[Strategy], int] = needs, **changes: Any
) -> ParallelPlan:
    device = None if device_gib is None else int(device_gib * GIB)
    return decide_plan(make_spec(**changes), world_size, device, estimate)


# --- what Auto becomes ---------------------------------------------------------------------------------------------


# Seven tenths of a device are for weights, gradients and moments.
@pytest.mark.parametrize(
    ("world_size", "device_gib", "expected", "reason"),
    [
        pytest.param(1, 1, None, "there is one process", id="one process shares with nobody"),
        pytest.param(8, None, DDP, "the model fits in each process", id="memory that nobody knows"),
        pytest.param(8, 80, DDP, "the model fits in each process", id="a small model"),
        pytest.param(8, 40 / 0.7 + 0.01, DDP, "the model fits in each process", id="one that just fits"),
        pytest.param(
            8,
            40 / 0.7 - 0.1,
            ZERO2,
            "DDP needs 40.0 GiB of 39.9 GiB; the first that fits",
            id="one that just does not",
        ),
        pytest.param(
            8,
            24,
            ZERO3,
            "DDP needs 40.0 GiB of 16.8 GiB; ZeRO2 needs 20.0 GiB of 16.8 GiB; the first that fits",
            id="a large model",
        ),
        pytest.param(
            8,
            5,
            ZERO3,
            "DDP needs 40.0 GiB of 3.5 GiB; ZeRO2 needs 20.0 GiB of 3.5 GiB; ZeRO3 needs 5.0 GiB of 3.5 GiB; "
            "nothing smaller is allowed",
            id="a model that fits nowhere",
        ),
    ],
)
def test_auto_takes_the_first_that_fits_and_says_why(
    world_size: int, device_gib: float | None, expected: Strategy | None, reason: str
) -> None:
    found = plan(world_size, device_gib)
    assert (found.strategy, found.offload, found.reason) == (expected, Offload.NONE, reason)
    assert found.needed_bytes == needs(expected or DDP)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({"method": {"type": "Full"}}, (DDP, ZERO2, ZERO3), id="Full"),
        pytest.param({"method": {"type": "LoRA"}}, (DDP, ZERO2, ZERO3), id="LoRA"),
        pytest.param({"method": {"type": "IA3"}}, (DDP, ZERO2, ZERO3), id="IA3"),
        pytest.param(
            {"method": {"type": "LoRA", "lora": {"variant": "RSLoRA"}}}, (DDP, ZERO2, ZERO3), id="RSLoRA"
        ),
        pytest.param({"method": {"type": "LoRA", "lora": {"variant": "DoRA"}}}, (DDP, ZERO2), id="DoRA"),
        pytest.param({"method": {"type": "LoRA", "lora": {"variant": "PiSSA"}}}, (DDP, ZERO2), id="PiSSA"),
        pytest.param({"method": {"type": "QLoRA"}}, (DDP, ZERO2), id="QLoRA with 4 bits"),
        pytest.param(
            {"method": {"type": "QLoRA", "quantization": {"type": "INT8", "doubleQuantization": False}}},
            (DDP,),
            id="QLoRA with 8 bits",
        ),
        pytest.param({"method": {"type": "AdaLoRA"}}, (DDP,), id="AdaLoRA"),
        pytest.param({"method": {"type": "PrefixTuning"}}, (DDP, ZERO2), id="prefix tuning"),
        pytest.param({"method": {"type": "PromptTuning"}}, (DDP, ZERO2), id="prompt tuning"),
        pytest.param({"training__optimizer": "AdamW8bit"}, (DDP,), id="8-bit moments"),
        pytest.param({"training__optimizer": "PagedAdamW8bit"}, (DDP,), id="paged moments"),
        pytest.param({"training__precision": "FP16"}, (DDP,), id="FP16"),
    ],
)
def test_auto_becomes_only_what_the_method_allows(
    changes: dict[str, Any], expected: tuple[Strategy, ...]
) -> None:
    assert allowed_strategies(make_spec(**changes)) == expected
    assert plan(4, 0.001, **changes).strategy is expected[-1]


@pytest.mark.parametrize(
    ("offload", "strategy"), [("Optimizer", ZERO2), ("OptimizerAndParameters", ZERO3)], ids=str
)
@pytest.mark.parametrize("world_size", [1, 4])
def test_auto_with_offload_is_the_first_that_can(offload: str, strategy: Strategy, world_size: int) -> None:
    found = plan(world_size, 80, parallelism__offload=offload)
    assert (found.strategy, found.offload) == (strategy, Offload(offload))
    assert found.reason == f"parallelism.offload {offload} needs it"


@pytest.mark.parametrize("strategy", [ZERO1, ZERO2, ZERO3, FSDP])
@pytest.mark.parametrize("world_size", [1, 4])
def test_what_the_job_names_is_taken(strategy: Strategy, world_size: int) -> None:
    found = plan(world_size, 0.001, parallelism__strategy=strategy.value)
    assert (found.strategy, found.reason) == (strategy, "parallelism.strategy asks for it")
    assert found.needed_bytes == needs(strategy)


def test_ddp_of_one_process_is_none() -> None:
    assert plan(1, 80, parallelism__strategy="DDP") == ParallelPlan(
        None, Offload.NONE, "there is one process", needs(DDP)
    )
    assert plan(2, 80, parallelism__strategy="DDP").strategy is DDP


@pytest.mark.parametrize(
    ("strategy", "name", "stage", "is_sharded", "splits_parameters"),
    [
        (None, "None", None, False, False),
        (DDP, "DDP", None, False, False),
        (ZERO1, "ZeRO1", 1, True, False),
        (ZERO2, "ZeRO2", 2, True, False),
        (ZERO3, "ZeRO3", 3, True, True),
        (FSDP, "FSDP", None, True, True),
    ],
)
def test_plan_knows_what_is_split(
    strategy: Strategy | None, name: str, stage: int | None, is_sharded: bool, splits_parameters: bool
) -> None:
    found = ParallelPlan(strategy, Offload.NONE, "")
    assert (found.name, found.zero_stage) == (name, stage)
    assert (found.is_sharded, found.splits_parameters) == (is_sharded, splits_parameters)


# --- who must meet -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parallelism", "world_size", "group", "deepspeed"),
    [
        pytest.param({}, 1, False, False, id="one process"),
        pytest.param({}, 2, True, True, id="Auto of two may become ZeRO"),
        pytest.param({"strategy": "DDP"}, 2, True, False, id="DDP of two"),
        pytest.param({"strategy": "DDP"}, 1, False, False, id="DDP of one"),
        pytest.param({"strategy": "FSDP"}, 1, True, False, id="FSDP of one"),
        pytest.param({"strategy": "FSDP"}, 4, True, False, id="FSDP of four"),
        pytest.param({"strategy": "ZeRO1"}, 1, True, True, id="ZeRO of one"),
        pytest.param({"strategy": "ZeRO3"}, 2, True, True, id="ZeRO of two"),
        pytest.param({"offload": "Optimizer"}, 1, True, True, id="Auto of one that offloads"),
    ],
)
def test_who_needs_a_process_group_and_who_deepspeed(
    parallelism: dict[str, str], world_size: int, group: bool, deepspeed: bool
) -> None:
    spec = make_spec(**{f"parallelism__{name}": value for name, value in parallelism.items()})
    settings = spec.parallelism
    assert needs_process_group(settings, world_size) is group
    assert may_use_deepspeed(settings, world_size) is deepspeed
    # What is decided in the end never needs more than was made ready.
    decided = decide_plan(spec, world_size, 1, needs)
    assert deepspeed or decided.zero_stage is None
    assert group or not decided.is_sharded


# --- what DeepSpeed is told ----------------------------------------------------------------------------------------

# Each field of spec.parallelism.deepspeed, a value, and where DeepSpeed reads it. Source: DeepSpeed, config JSON docs.
TUNING: dict[str, tuple[str, Any, str]] = {
    "reduceBucketSize": ("reduce_bucket_size", 1_000_000, "reduce_bucket_size"),
    "allgatherBucketSize": ("allgather_bucket_size", 2_000_000, "allgather_bucket_size"),
    "overlapComm": ("overlap_comm", True, "overlap_comm"),
    "contiguousGradients": ("contiguous_gradients", False, "contiguous_gradients"),
    "reduceScatter": ("reduce_scatter", False, "reduce_scatter"),
    "roundRobinGradients": ("round_robin_gradients", True, "round_robin_gradients"),
    "subGroupSize": ("sub_group_size", 3_000_000, "sub_group_size"),
    "prefetchBucketSize": ("stage3_prefetch_bucket_size", 4_000_000, "prefetch_bucket_size"),
    "paramPersistenceThreshold": (
        "stage3_param_persistence_threshold",
        5_000_000,
        "param_persistence_threshold",
    ),
    "maxLiveParameters": ("stage3_max_live_parameters", 6_000_000, "max_live_parameters"),
    "maxReuseDistance": ("stage3_max_reuse_distance", 7_000_000, "max_reuse_distance"),
}


def build(
    strategy: Strategy = ZERO2, offload: Offload = Offload.NONE, compute: str = "bf16", **tuning: Any
) -> dict[str, Any]:
    return dict(
        build_deepspeed_config(
            ParallelPlan(strategy, offload, ""),
            tuning=DeepSpeed.model_validate(tuning) if tuning else None,
            max_grad_norm=0.3,
            compute=compute,
            world_size=1,
        )
    )


def read_by_deepspeed(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The configuration as DeepSpeed itself understands it; it refuses keys that it does not know."""
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    from deepspeed.runtime.config import DeepSpeedConfig

    return DeepSpeedConfig(config)


@pytest.mark.parametrize("field", TUNING)
def test_each_setting_stands_under_deepspeeds_own_name(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    key, value, read_as = TUNING[field]
    section = build(ZERO3, **{field: value})["zero_optimization"]
    assert section[key] == value
    untuned = build(ZERO3)["zero_optimization"]
    assert {name for name in {*section, *untuned} if section.get(name) != untuned.get(name)} == {key}
    read = read_by_deepspeed(build(ZERO3, **{field: value}), monkeypatch)
    assert getattr(read.zero_config, read_as) == value


def test_every_setting_of_the_api_is_in_the_table() -> None:
    fields = {each.alias for each in DeepSpeed.model_fields.values()}
    assert fields == {*TUNING, "pinMemory"}


@pytest.mark.parametrize(
    ("strategy", "offload", "pinned", "optimizer", "parameters"),
    [
        pytest.param(ZERO2, Offload.NONE, None, None, None, id="nothing"),
        pytest.param(ZERO2, Offload.OPTIMIZER, None, False, None, id="the optimizer"),
        pytest.param(ZERO2, Offload.OPTIMIZER, True, True, None, id="the optimizer, pinned"),
        pytest.param(ZERO3, Offload.OPTIMIZER_AND_PARAMETERS, None, False, False, id="all"),
        pytest.param(ZERO3, Offload.OPTIMIZER_AND_PARAMETERS, True, True, True, id="all, pinned"),
    ],
)
def test_what_is_offloaded(
    strategy: Strategy,
    offload: Offload,
    pinned: bool | None,
    optimizer: bool | None,
    parameters: bool | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """None: it stays on the device; otherwise whether host memory is pinned."""
    tuning: dict[str, Any] = {} if pinned is None else {"pinMemory": pinned}
    config = build(strategy, offload, **tuning)
    zero = read_by_deepspeed(config, monkeypatch).zero_config
    for found, expected in ((zero.offload_optimizer, optimizer), (zero.offload_param, parameters)):
        assert (found is None) == (expected is None)
        if found is not None:
            assert (found.device, found.pin_memory) == ("cpu", expected)


@pytest.mark.parametrize("strategy", [ZERO1, ZERO2, ZERO3])
@pytest.mark.parametrize("compute", ["bf16", "fp32"])
def test_deepspeed_takes_the_configuration(
    strategy: Strategy, compute: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = read_by_deepspeed(build(strategy, compute=compute), monkeypatch)
    assert read.zero_optimization_stage == int(strategy.value[-1])
    assert read.gradient_clipping == 0.3
    assert read.bfloat16_config.enabled == (compute == "bf16")
    assert not read.float16_config.enabled
    # Gradients of micro-batches are added up in fp32, by ourselves.
    assert read.grad_accum_dtype == ("fp32" if compute == "bf16" else None)
    assert read.communication_data_type == (torch.float32 if compute == "bf16" else None)
    assert (read.train_micro_batch_size_per_gpu, read.gradient_accumulation_steps) == (1, 1)
    # torch's own AdamW is used, and nothing is compiled or printed.
    assert read.zero_allow_untested_optimizer
    assert not read.zero_force_ds_cpu_optimizer
    assert read.optimizer_name is None
    assert read.steps_per_print > 1_000_000_000


def test_every_process_counts_as_one_row() -> None:
    """DeepSpeed compares the three; our micro-batches have as many rows as fit."""
    plan = ParallelPlan(ZERO2, Offload.NONE, "")
    config = build_deepspeed_config(plan, tuning=None, max_grad_norm=1.0, compute="fp32", world_size=6)
    sizes = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    assert [config[size] for size in sizes] == [6, 1, 1]
