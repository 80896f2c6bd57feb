"""Which modules a method trains: `auto`, names, modules that are trained whole, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.spec import Method, Task
from finetune_trainer.errors import UserError
from finetune_trainer.model_layers import ModelLayers, read_layers
from finetune_trainer.safetensors_header import TensorInfo
from finetune_trainer.target_modules import TrainedModules, decide_trained_modules

HIDDEN, INNER, ROWS = 8, 16, 40


def tensor(*shape: int) -> TensorInfo:
    return TensorInfo(dtype="BF16", shape=shape, data_offsets=(0, 0))


def qwen_tensors(*, blocks: int = 2, tied: bool = False) -> dict[str, TensorInfo]:
    tensors = {"model.embed_tokens.weight": tensor(ROWS, HIDDEN), "model.norm.weight": tensor(HIDDEN)}
    for number in range(blocks):
        block = f"model.layers.{number}"
        for name, rows in (("q_proj", HIDDEN), ("k_proj", 4), ("v_proj", 4), ("o_proj", HIDDEN)):
            tensors[f"{block}.self_attn.{name}.weight"] = tensor(rows, HIDDEN)
        tensors[f"{block}.self_attn.q_proj.bias"] = tensor(HIDDEN)
        tensors[f"{block}.mlp.up_proj.weight"] = tensor(INNER, HIDDEN)
        tensors[f"{block}.mlp.down_proj.weight"] = tensor(HIDDEN, INNER)
        tensors[f"{block}.input_layernorm.weight"] = tensor(HIDDEN)
        # A convolution is no linear layer.
        tensors[f"{block}.conv1d.weight"] = tensor(HIDDEN, 1, 4)
    return tensors if tied else {**tensors, "lm_head.weight": tensor(ROWS, HIDDEN)}


def qwen(*, tied: bool = False) -> ModelLayers:
    return read_layers("s3://models/base", qwen_tensors(tied=tied), tied_embeddings=tied)


def decide(
    method: dict[str, Any], task: Task = Task.CAUSAL_LM, model: ModelLayers | None = None
) -> TrainedModules:
    return decide_trained_modules(Method.model_validate(method), task, model or qwen())


def lora(**settings: Any) -> dict[str, Any]:
    return {"type": "LoRA", "lora": {"rank": 2, **settings}}


ALL = ("down_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
RESOLVED: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "auto takes every linear layer of the blocks": (lora(), ALL),
    "names are sorted and taken once": (
        lora(targetModules=["v_proj", "q_proj", "v_proj"]),
        ("q_proj", "v_proj"),
    ),
    "a path takes the layers it ends": (
        lora(targetModules=["layers.0.mlp.up_proj"]),
        ("layers.0.mlp.up_proj",),
    ),
    "the output head may be named": (lora(targetModules=["lm_head", "q_proj"]), ("lm_head", "q_proj")),
    "the embedding may be named": (lora(targetModules=["embed_tokens"], variant="RSLoRA"), ("embed_tokens",)),
    "QLoRA as LoRA": ({"type": "QLoRA", "lora": {"rank": 2}}, ALL),
    "AdaLoRA as LoRA": ({"type": "AdaLoRA", "adaLora": {"initialRank": 2, "targetRank": 1}}, ALL),
    "IA3 takes keys, values and the feed-forward layer": ({"type": "IA3"}, ("down_proj", "k_proj", "v_proj")),
    "full training takes no names": ({"type": "Full"}, ()),
    "virtual tokens need no names": ({"type": "PromptTuning"}, ()),
}


@pytest.mark.parametrize("case", RESOLVED)
def test_targets(case: str) -> None:
    method, expected = RESOLVED[case]
    assert decide(method).targets == expected


def test_targets_stand_for_layers_of_every_block() -> None:
    paths = [layer.path for layer in decide(lora(targetModules=["q_proj", "lm_head"])).layers]
    assert paths == ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj", "lm_head"]


def test_tied_model_has_an_output_head_although_its_files_do_not() -> None:
    layers = decide(lora(targetModules=["lm_head"]), model=qwen(tied=True)).layers
    assert [(layer.path, layer.shape) for layer in layers] == [("lm_head", (ROWS, HIDDEN))]


def test_copy_of_a_tied_head_in_the_files_is_not_counted() -> None:
    copied = read_layers("base", qwen_tensors(tied=False), tied_embeddings=True)
    assert "lm_head.weight" not in copied.element_counts


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        pytest.param(
            {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"},
            ("dense_4h_to_h", "query_key_value"),
            id="GPT-NeoX",
        ),
        pytest.param({"k_proj", "q_proj", "v_proj", "fc1", "fc2"}, ("fc2", "k_proj", "v_proj"), id="Phi"),
        pytest.param({"qkv_proj", "gate_up_proj", "down_proj"}, ("down_proj", "qkv_proj"), id="Phi 3"),
    ],
)
def test_ia3_knows_the_names_of_other_families(names: set[str], expected: tuple[str, ...]) -> None:
    tensors = {f"model.layers.0.{name}.weight": tensor(4, 4) for name in names}
    modules = decide({"type": "IA3"}, model=read_layers("base", tensors, tied_embeddings=False))
    assert modules.targets == expected
    assert set(modules.feedforward) < set(expected)


def test_ia3_tells_the_feed_forward_layer_of_an_mlp_from_attentions_own() -> None:
    names = ("self_attn.k_proj", "self_attn.v_proj", "self_attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    tensors = {f"model.layers.0.{name}.weight": tensor(4, 4) for name in names}
    modules = decide({"type": "IA3"}, model=read_layers("base", tensors, tied_embeddings=False))
    assert modules.feedforward == ("mlp.c_proj",)
    assert [layer.path for layer in modules.feedforward_layers] == ["model.layers.0.mlp.c_proj"]


# --- modules that are trained whole ------------------------------------------------------------------------------


def test_auto_leaves_out_what_is_trained_whole_and_says_so() -> None:
    modules = decide(lora(fullyTrainedModules=["self_attn", "lm_head"]))
    assert modules.targets == ("down_proj", "up_proj")
    assert modules.fully_trained == ("lm_head", "self_attn")
    assert modules.left_out == ("k_proj", "o_proj", "q_proj", "v_proj")


def test_auto_keeps_a_name_that_is_trained_whole_in_one_block_only() -> None:
    modules = decide(lora(fullyTrainedModules=["layers.0.mlp"]))
    assert "up_proj" in modules.targets
    paths = [layer.path for layer in modules.layers if layer.name == "up_proj"]
    assert paths == ["model.layers.1.mlp.up_proj"]


@pytest.mark.parametrize("name", ["q_proj", "mlp", "input_layernorm", "lm_head", "embed_tokens", "layers.1"])
def test_layers_and_containers_can_be_trained_whole(name: str) -> None:
    assert decide(lora(fullyTrainedModules=[name])).fully_trained == (name,)


# --- what is refused ---------------------------------------------------------------------------------------------

CLASSIFICATION = Task.SEQUENCE_CLASSIFICATION
REFUSED: dict[str, tuple[dict[str, Any], Task, str]] = {
    "a target that is not there": (
        lora(targetModules=["q_proj", "query"]),
        Task.CAUSAL_LM,
        "method.lora.targetModules names query, which is no linear layer of the model's blocks. It has down_proj, "
        "k_proj, o_proj, q_proj, up_proj, v_proj. Beside them, embed_tokens and lm_head can be named.",
    ),
    "a container as target": (
        lora(targetModules=["mlp"]),
        Task.CAUSAL_LM,
        "method.lora.targetModules names mlp, which is no linear layer of the model's blocks. It has down_proj, "
        "k_proj, o_proj, q_proj, up_proj, v_proj. Beside them, embed_tokens and lm_head can be named.",
    ),
    "auto beside names": (
        {"type": "AdaLoRA", "adaLora": {"targetModules": ["auto", "q_proj"]}},
        Task.CAUSAL_LM,
        "method.adaLora.targetModules mixes auto with names. Write [auto] alone, or names.",
    ),
    "an embedding for AdaLoRA": (
        {"type": "AdaLoRA", "adaLora": {"targetModules": ["embed_tokens"]}},
        Task.CAUSAL_LM,
        "method.adaLora.targetModules names embed_tokens, which is no linear layer of the model's blocks. It has "
        "down_proj, k_proj, o_proj, q_proj, up_proj, v_proj. Beside them, lm_head can be named.",
    ),
    "an output head for IA3": (
        {"type": "IA3", "ia3": {"targetModules": ["lm_head"], "feedforwardModules": ["lm_head"]}},
        Task.CAUSAL_LM,
        "method.ia3.targetModules names lm_head, which is no linear layer of the model's blocks. It has down_proj, "
        "k_proj, o_proj, q_proj, up_proj, v_proj.",
    ),
    "a feed-forward layer that is not there": (
        {"type": "IA3", "ia3": {"targetModules": ["q_proj"], "feedforwardModules": ["fc2"]}},
        Task.CAUSAL_LM,
        "method.ia3.feedforwardModules names fc2, which is no linear layer of the model's blocks. It has down_proj, "
        "k_proj, o_proj, q_proj, up_proj, v_proj.",
    ),
    "the output head of a model that classifies": (
        lora(targetModules=["lm_head"]),
        CLASSIFICATION,
        "method.lora.targetModules names lm_head, which is no linear layer of the model's blocks. It has down_proj, "
        "k_proj, o_proj, q_proj, up_proj, v_proj. Beside them, embed_tokens can be named.",
    ),
    "an embedding with DoRA": (
        lora(targetModules=["embed_tokens", "q_proj"], variant="DoRA"),
        Task.CAUSAL_LM,
        "method.lora.targetModules names embed_tokens, an embedding, for which there is no method.lora.variant DoRA. "
        "Remove it, or set variant: Standard or RSLoRA.",
    ),
    "a rank larger than a layer": (
        lora(rank=5),
        Task.CAUSAL_LM,
        "method.lora.rank 5 is larger than the smallest dimension of model.layers.0.self_attn.k_proj (4 x 8). Set rank "
        "to at most 4.",
    ),
    "an initial rank larger than a layer": (
        {"type": "AdaLoRA", "adaLora": {"initialRank": 12, "targetModules": ["q_proj"]}},
        Task.CAUSAL_LM,
        "method.adaLora.initialRank 12 is larger than the smallest dimension of model.layers.0.self_attn.q_proj "
        "(8 x 8). Set initialRank to at most 8.",
    ),
    "a module trained whole that is not there": (
        lora(fullyTrainedModules=["attention"]),
        Task.CAUSAL_LM,
        "method.lora.fullyTrainedModules names attention, which the model does not have. It has conv1d, down_proj, "
        "embed_tokens, input_layernorm, k_proj, lm_head, mlp, o_proj, q_proj, self_attn, up_proj, v_proj.",
    ),
    "a layer inside a module that is trained whole": (
        lora(fullyTrainedModules=["self_attn"], targetModules=["q_proj", "up_proj"]),
        Task.CAUSAL_LM,
        "method.lora.targetModules q_proj and method.lora.fullyTrainedModules self_attn both take "
        "model.layers.0.self_attn.q_proj, which is trained whole or gets an adapter, not both. Remove it from one of "
        "them.",
    ),
    "the head as both": (
        lora(fullyTrainedModules=["lm_head"], targetModules=["lm_head"]),
        Task.CAUSAL_LM,
        "method.lora.targetModules lm_head and method.lora.fullyTrainedModules lm_head both take lm_head, which is "
        "trained whole or gets an adapter, not both. Remove it from one of them.",
    ),
    "nothing left for an adapter": (
        lora(fullyTrainedModules=["self_attn", "mlp"]),
        Task.CAUSAL_LM,
        "method.lora.fullyTrainedModules mlp, self_attn leaves no linear layer for an adapter. Set method.type: Full, "
        "or train fewer modules whole.",
    ),
    "all blocks trained whole": (
        lora(fullyTrainedModules=["layers"]),
        Task.CAUSAL_LM,
        "method.lora.fullyTrainedModules names layers, which holds all of the model's blocks. Name modules inside "
        "them, or set method.type: Full.",
    ),
    "a name with which others end": (
        lora(fullyTrainedModules=["norm"]),
        Task.CAUSAL_LM,
        "method.lora.fullyTrainedModules names norm, with which the name of input_layernorm ends too, so that both "
        "would be trained whole. Name modules whose names stand for themselves.",
    ),
    "a head that is replaced": (
        lora(fullyTrainedModules=["lm_head"]),
        CLASSIFICATION,
        "method.lora.fullyTrainedModules names lm_head, in whose place task SequenceClassification puts a head of its "
        "own, which is trained whole anyway. Remove it.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_the_model_is_refused(case: str) -> None:
    method, task, sentence = REFUSED[case]
    with pytest.raises(UserError) as refusal:
        decide(method, task)
    assert refusal.value.message == sentence


def test_ia3_without_names_it_knows_is_refused_with_what_there_is() -> None:
    model = read_layers("base", {"h.0.attention.weight": tensor(4, 4)}, tied_embeddings=False)
    with pytest.raises(UserError) as refusal:
        decide({"type": "IA3"}, model=model)
    assert refusal.value.message == (
        "method.ia3.targetModules [auto] finds no keys and values among the model's linear layers by the names it "
        "knows. Name them in method.ia3.targetModules and feedforwardModules: the model has attention."
    )


def test_model_without_numbered_blocks_is_refused() -> None:
    with pytest.raises(
        UserError, match="declare no linear layer in numbered blocks, so there is nothing to train"
    ):
        read_layers("s3://models/base", {"embed.weight": tensor(4, 4)}, tied_embeddings=False)


@pytest.mark.parametrize(
    "name", ["model.layers.0.mlp.experts.3.up_proj.weight", "model.layers.0.mlp.experts.gate_up_proj"]
)
def test_experts_are_refused_in_every_form(name: str) -> None:
    with pytest.raises(UserError, match=f"is a mixture of experts \\({name}\\), which cannot be tuned yet"):
        read_layers("s3://models/base", {**qwen_tensors(), name: tensor(2, 4, 4)}, tied_embeddings=False)
