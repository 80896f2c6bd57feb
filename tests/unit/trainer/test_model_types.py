"""Every kind of model that prepare lets through: its packed rows are right, and `auto` is what peft calls all-linear."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import _maybe_include_all_linear_layers
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)
from transformers.pytorch_utils import Conv1D

from finetune_api.spec import Method, Task
from finetune_trainer.attention import PACKED_ATTENTION, register_packed_attention
from finetune_trainer.errors import UserError
from finetune_trainer.model_folder import ModelConfig
from finetune_trainer.model_layers import read_layers
from finetune_trainer.model_shapes import embedding_of, refuse_other_shapes
from finetune_trainer.safetensors_header import TensorInfo
from finetune_trainer.target_modules import decide_trained_modules
from finetune_trainer.unsupported_models import (
    TRAINED_MODEL_TYPES,
    TRANSPOSED_MODEL_TYPES,
    UNCLASSIFYING_MODEL_TYPES,
    refuse_unproven_type,
)
from tests.builders.small_causal_models import make_small_config

MODEL_TYPES = sorted(TRAINED_MODEL_TYPES)
LENGTHS = [5, 17, 1, 9, 2]
# Shorter than the longest row, where a model has such layers.
WINDOW = 4


def make_models(model_type: str) -> tuple[PreTrainedModel, PreTrainedModel]:
    """The same model twice: with transformers' own attention, and with ours."""
    config = make_small_config(model_type, attention_dropout=0.0)
    if getattr(config, "sliding_window", None) is not None:
        config.sliding_window = WINDOW
    own = AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation="eager").float().eval()
    ours = AutoModelForCausalLM.from_config(config, attn_implementation=PACKED_ATTENTION).float().eval()
    ours.load_state_dict(own.state_dict())
    return own, ours


def packed_logits(model: PreTrainedModel, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Logits [tokens, vocabulary] of rows that lie end to end, by the decoder and the head as losses.py calls them."""
    decoder = getattr(model, model.base_model_prefix)
    outputs = decoder(input_ids=ids, position_ids=positions, use_cache=False, document_lengths=tuple(LENGTHS))
    logits: torch.Tensor = model.get_output_embeddings()(outputs.last_hidden_state[0])
    return logits


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_packed_rows_give_what_each_row_gives_alone(model_type: str) -> None:
    torch.manual_seed(0)
    register_packed_attention()
    own, ours = make_models(model_type)
    ids = torch.randint(3, 120, (1, sum(LENGTHS)))
    positions = torch.cat([torch.arange(length) for length in LENGTHS])[None]
    with torch.no_grad():
        packed = packed_logits(ours, ids, positions)
        alone = torch.cat([own(part, use_cache=False).logits[0] for part in torch.split(ids, LENGTHS, dim=1)])
    torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-5)


def declared_tensors(model: PreTrainedModel) -> dict[str, TensorInfo]:
    """What the header of the model's file would say."""
    tied = set(model.all_tied_weights_keys or ())
    return {
        name: TensorInfo(dtype="F32", shape=tuple(tensor.shape), data_offsets=(0, 0))
        for name, tensor in model.state_dict().items()
        if name not in tied
    }


def make_empty(model_type: str) -> PreTrainedModel:
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(make_small_config(model_type))
    return model


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_auto_takes_what_peft_calls_all_linear(model_type: str) -> None:
    model = make_empty(model_type)
    wanted = _maybe_include_all_linear_layers(LoraConfig(target_modules="all-linear"), model).target_modules
    assert isinstance(wanted, set)

    layers = read_layers("model", declared_tensors(model), tied_embeddings=False)
    modules = decide_trained_modules(
        Method.model_validate({"type": "LoRA", "lora": {"rank": 1}}), Task.CAUSAL_LM, layers
    )
    assert {layer.path for layer in modules.layers} == wanted


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_files_of_a_model_agree_with_its_own_configuration(model_type: str) -> None:
    model = make_empty(model_type)
    config = ModelConfig.model_validate(model.config.to_dict())
    tensors = declared_tensors(model)
    refuse_other_shapes("model", config, tensors)
    found = embedding_of(config, tensors)
    assert found is not None
    assert found[1].shape == tuple(model.get_input_embeddings().weight.shape)
    assert (config.hidden_size, config.num_hidden_layers) == (32, 2)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_ia3_finds_keys_values_and_the_feed_forward_layer(model_type: str) -> None:
    layers = read_layers("model", declared_tensors(make_empty(model_type)), tied_embeddings=False)
    modules = decide_trained_modules(Method.model_validate({"type": "IA3"}), Task.CAUSAL_LM, layers)
    assert set(modules.feedforward) < set(modules.targets)
    # One layer for the feed-forward, one or two for keys and values, in each block.
    assert len(modules.feedforward_layers) == 2
    assert len(modules.layers) in (4, 6)


def test_layers_that_are_kept_transposed_are_known() -> None:
    transposed = {
        model_type
        for model_type in MODEL_TYPES
        if any(isinstance(module, Conv1D) for module in make_empty(model_type).modules())
    }
    assert transposed == TRANSPOSED_MODEL_TYPES


def test_types_are_those_of_transformers() -> None:
    assert MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys() >= TRAINED_MODEL_TYPES
    classified = TRAINED_MODEL_TYPES & MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.keys()
    assert TRAINED_MODEL_TYPES - classified == UNCLASSIFYING_MODEL_TYPES


@pytest.mark.parametrize(
    "model_type", ["bloom", "falcon", "gptj", "stablelm", "mamba", "qwen3_moe", "gemma2", ""]
)
def test_another_type_is_refused_with_those_that_are_trained(model_type: str) -> None:
    with pytest.raises(UserError, match=r"which is not trained yet: .*one of these types: apertus, .*qwen3"):
        refuse_unproven_type("s3://models/base", model_type)
