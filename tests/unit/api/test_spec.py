"""The spec as the trainer and the CLI parse it: defaults, bounds, unknown fields, round trip."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from finetune_api.spec import FineTuneJobSpec, FullWidth, Leakage, UnicodeForm
from tests.builders.jobs import make_manifest


def parse(**changes: Any) -> FineTuneJobSpec:
    return FineTuneJobSpec.model_validate(make_manifest(**changes)["spec"])


def test_a_minimal_job_gets_the_documented_defaults() -> None:
    spec = parse()

    assert (spec.method.lora.rank, spec.method.lora.alpha, spec.method.lora.target_modules) == (
        16,
        32,
        ["auto"],
    )
    assert (spec.training.learning_rate, spec.training.global_batch_size, spec.training.seed) == (
        2e-4,
        16,
        42,
    )
    assert (spec.checkpoints.every_steps, spec.checkpoints.keep_last) == (100, 2)
    assert spec.output.merged.enabled
    preparation = spec.dataset.preparation
    assert (preparation.max_length, preparation.max_invalid_fraction) == (None, 0.1)
    assert (preparation.unicode, preparation.full_width, preparation.noise, preparation.leakage) == (
        UnicodeForm.NONE,
        FullWidth.KEEP,
        None,
        Leakage.DROP,
    )
    assert spec.resources.export.memory == "8Gi"


@pytest.mark.parametrize(
    ("changes", "location"),
    [
        pytest.param({"training__learningRate": 2}, "training.learningRate", id="a learning rate above 1"),
        pytest.param(
            {"training__learningRate": "NaN"}, "training.learningRate", id="a learning rate that is no number"
        ),
        pytest.param({"method__type": "lora"}, "method.type", id="a method in lower case"),
        pytest.param({"method__lora__rank": 0}, "method.lora.rank", id="rank zero"),
        pytest.param({"model__source": "https://x/y"}, "model.source", id="a model that is not in a store"),
        pytest.param({"output": ...}, "output", id="no output, which the operator fills in before"),
        pytest.param(
            {"training__microBatchTokens": "auto"}, "training.microBatchTokens", id="Auto in lower case"
        ),
        pytest.param(
            {"training__microBatchTokens": 4}, "training.microBatchTokens", id="too small a micro-batch"
        ),
        pytest.param(
            {"env": [{"name": "LD_PRELOAD", "value": "x"}]}, "env.0.name", id="a variable that is not allowed"
        ),
        pytest.param(
            {"env": [{"name": "NCCL_NET_PLUGIN", "value": "x"}]},
            "env.0.name",
            id="a variable by which a library loads code",
        ),
        pytest.param({"dataset__train": []}, "dataset.train", id="no training source"),
        pytest.param(
            {"dataset__train": [{"source": "s3://data/a:zh/../b//"}]},
            "dataset.train.0.source",
            id="a folder with two slashes",
        ),
        pytest.param(
            {
                "dataset__preparation__augment": {
                    "methods": ["Synonyms"],
                    "wordList": "configMap://words",
                }
            },
            "dataset.preparation.augment.wordList",
            id="a word list without a key",
        ),
        pytest.param({"trainning__epochs": 3}, "trainning", id="a misspelt block"),
        pytest.param({"resources__memory": "16 GB"}, "resources.memory", id="a quantity with a space"),
        pytest.param(
            {"output__merged__maxShardSize": "5GiB"}, "output.merged.maxShardSize", id="an unknown unit"
        ),
    ],
)
def test_a_wrong_value_is_refused_at_its_field(changes: dict[str, Any], location: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        parse(**changes)

    assert location in {".".join(map(str, error["loc"])) for error in refusal.value.errors()}


def test_whole_numbers_are_accepted_as_quantities() -> None:
    assert parse(resources__cpu=2).resources.cpu == "2"


def test_a_spec_survives_the_way_through_the_job_file() -> None:
    spec = parse(
        training__warmupSteps=3, dataset__train=[{"inline": [{"input_text": "a", "target_text": "b"}]}]
    )

    assert FineTuneJobSpec.model_validate_json(spec.model_dump_json(exclude_none=True)) == spec


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="left out"),
        pytest.param(
            {"training__microBatchTokens": "Auto", "checkpoints__gracePeriodSeconds": "Auto"},
            id="written as Auto",
        ),
    ],
)
def test_auto_is_none_in_memory_and_never_written(changes: dict[str, Any]) -> None:
    """A trainer image that does not know the word never reads it."""
    spec = parse(**changes)

    assert (spec.training.micro_batch_tokens, spec.checkpoints.grace_period_seconds) == (None, None)
    assert "Auto" not in spec.model_dump_json(exclude_defaults=True)


def test_a_job_that_uses_nothing_new_is_written_as_it_always_was() -> None:
    """A trainer image of an earlier version parses what a newer operator writes."""
    manifest = make_manifest()

    written = parse().model_dump(mode="json", by_alias=True, exclude_defaults=True)

    assert written == manifest["spec"]


@pytest.mark.parametrize(
    "name",
    [
        "NCCL_DEBUG",
        "NCCL_SOCKET_IFNAME",
        "GLOO_SOCKET_IFNAME",
        "UCX_TLS",
        "FI_PROVIDER",
        "TORCH_NCCL_ASYNC_ERROR_HANDLING",
        "TORCH_DISTRIBUTED_DEBUG",
        "PYTORCH_CUDA_ALLOC_CONF",
        "OMP_NUM_THREADS",
        "HF_ENDPOINT",
        "HF_HUB_DISABLE_XET",
        "MODELSCOPE_ENDPOINT",
        "MODELSCOPE_DOMAIN",
        "https_proxy",
        "TZ",
    ],
)
def test_variables_that_tune_libraries_are_allowed(name: str) -> None:
    assert parse(env=[{"name": name, "value": "x"}]).env is not None


@pytest.mark.parametrize(
    "name",
    [
        "LD_LIBRARY_PATH",
        "PYTHONSTARTUP",
        "AWS_ACCESS_KEY_ID",
        "FINETUNE_PROGRESS_URL",
        "HF_TOKEN",
        "HF_HOME",
        "MODELSCOPE_API_TOKEN",
        "MODELSCOPE_CACHE",
        "SSL_CERT_FILE",
        "NCCL_TUNER_PLUGIN",
        "NCCL_ENV_PLUGIN",
        "NCCL_TOPO_FILE",
        "NCCL_TOPO_DUMP_FILE",
        "NCCL_CONF_FILE",
        "NCCL_INSPECTOR_DUMP_DIR",
        "UCX_MODULE_DIR",
        "UCX_LOG_FILE",
        "UCX_STATS_DEST",
        "FI_PROVIDER_PATH",
        "TORCH_NCCL_DEBUG_INFO_TEMP_FILE",
        "NCCL_DEBUG ",
    ],
)
def test_variables_that_load_code_open_files_or_carry_secrets_are_not(name: str) -> None:
    with pytest.raises(ValidationError):
        parse(env=[{"name": name, "value": "x"}])
