"""Whether an earlier adapter is the one that the job asks for: its adapter_config.json and its tensors. Pure.

What decides the adapter's form (rank, alpha, targets, variant, virtual tokens) must be the same; what only decides how
it is trained (dropout, learning rate) is the job's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, JsonValue

from finetune_api.spec import LoRAVariant, Method, MethodType, Task
from finetune_trainer.errors import UserError
from finetune_trainer.model_layers import Layer
from finetune_trainer.safetensors_header import TensorInfo
from finetune_trainer.trained_shapes import TrainedTensor

PEFT_TYPES = {
    MethodType.LORA: "LORA",
    MethodType.QLORA: "LORA",
    MethodType.ADA_LORA: "ADALORA",
    MethodType.IA3: "IA3",
    MethodType.PREFIX_TUNING: "PREFIX_TUNING",
    MethodType.PROMPT_TUNING: "PROMPT_TUNING",
}
_TASK_TYPES = {Task.CAUSAL_LM: "CAUSAL_LM", Task.SEQUENCE_CLASSIFICATION: "SEQ_CLS"}
# Starts that take something away from the base model's weights: the adapter is right only beside what is left of them.
_STARTS_THAT_CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
# What peft itself trains whole for classification.
_HEADS = frozenset({"classifier", "score"})
_PREFIX = "base_model.model."
_KINDS = (
    "lora_A.weight",
    "lora_B.weight",
    "lora_A",
    "lora_B",
    "lora_E",
    "lora_embedding_A",
    "lora_embedding_B",
    "ia3_l",
)

_Names = Annotated[list[str], BeforeValidator(lambda value: value if isinstance(value, list) else [])]


class AdapterConfig(BaseModel):
    """What we read of adapter_config.json; names are peft's."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    peft_type: str
    task_type: str | None = None
    r: int = 8
    init_r: int = 12
    target_r: int = 8
    lora_alpha: float = 8
    bias: str = "none"
    lora_bias: bool = False
    use_dora: bool = False
    use_rslora: bool = False
    init_lora_weights: bool | str = True
    rank_pattern: dict[str, JsonValue] | None = None
    alpha_pattern: dict[str, JsonValue] | None = None
    modules_to_save: _Names = []
    num_virtual_tokens: int | None = None
    prefix_projection: bool = False

    @property
    def variant(self) -> str:
        """The adapter's variant in the API's words."""
        if self.use_dora:
            return f"{LoRAVariant.DORA} and {LoRAVariant.RS_LORA}" if self.use_rslora else LoRAVariant.DORA
        return LoRAVariant.RS_LORA if self.use_rslora else LoRAVariant.STANDARD


def refuse_other_config(origin: str, config: AdapterConfig, method: Method, task: Task) -> None:
    """Raise UserError that names every setting in which the adapter is another than the job asks for."""
    _refuse_other_kind(origin, config, method, task)
    _refuse_unusable(origin, config)
    differences = [
        f"its {field} is {theirs}, this job's {mine}"
        for field, theirs, mine in _settings(config, method)
        if theirs != mine
    ]
    if differences:
        raise _another(origin, differences)


def refuse_other_tensors(
    origin: str, method: Method, expected: list[TrainedTensor], found: Mapping[str, TensorInfo]
) -> None:
    """Raise UserError where the adapter has other layers than the job asks for, or is of another base model."""
    wanted = {(tensor.place, tensor.kind): tensor.shape for tensor in expected}
    theirs = {key: info.shape for name, info in found.items() if (key := _key(name)) is not None}
    if wanted.keys() != theirs.keys():
        raise _another(origin, [_difference_of_layers(method, wanted.keys(), theirs.keys())])
    for (place, kind), shape in wanted.items():
        if theirs[place, kind] != shape:
            raise UserError(
                f"model.adapterSource {origin} is of another base model: its {_tensor_name(place, kind)} is "
                f"{_shape(theirs[place, kind])}, model.source needs {_shape(shape)}. Set model.source to the model "
                "that the adapter was trained on, or remove model.adapterSource."
            )


def refuse_other_head(origin: str, labels: int, hidden_size: int, found: Mapping[str, TensorInfo]) -> None:
    """Raise UserError where a classifier's head is not one for this many labels."""
    head = next((info for name, info in found.items() if name.endswith("score.weight")), None)
    if head is None or head.shape != (labels, hidden_size):
        state = f"has a head of {_shape(head.shape)}" if head is not None else "has no head"
        raise UserError(
            f"model.adapterSource {origin} {state}, but the {labels} labels of this job on model.source need "
            f"{labels} x {hidden_size}. Set the labels that it was trained on, or remove model.adapterSource."
        )


# --- settings --------------------------------------------------------------------------------------------------


def _refuse_other_kind(origin: str, config: AdapterConfig, method: Method, task: Task) -> None:
    wanted = PEFT_TYPES[method.type]
    if config.peft_type != wanted:
        known = " or ".join(
            kind.value for kind, peft_type in PEFT_TYPES.items() if peft_type == config.peft_type
        )
        then = f"Set method.type: {known}" if known else "Name another adapter"
        raise UserError(
            f"model.adapterSource {origin} is an adapter of type {config.peft_type}, but method.type is "
            f"{method.type.value}. {then}, or remove model.adapterSource."
        )
    if config.task_type not in (None, _TASK_TYPES[task]):
        raise UserError(
            f"model.adapterSource {origin} was trained for the task {config.task_type}, but task is {task.value}. Set "
            "that task, or remove model.adapterSource."
        )


def _refuse_unusable(origin: str, config: AdapterConfig) -> None:
    start = config.init_lora_weights
    reasons = {
        f"it was started from changed weights of the base model (init_lora_weights {start})": isinstance(
            start, str
        )
        and start.lower().startswith(_STARTS_THAT_CHANGE_THE_BASE),
        "its ranks differ from layer to layer (rank_pattern)": bool(config.rank_pattern),
        "its alpha differs from layer to layer (alpha_pattern)": bool(config.alpha_pattern),
        "it trains biases": config.bias != "none" or config.lora_bias,
        "its prefix was made by a projection, which is not saved with it": config.prefix_projection,
    }
    reason = next((sentence for sentence, is_so in reasons.items() if is_so), None)
    if reason is not None:
        raise UserError(
            f"model.adapterSource {origin} cannot be gone on from: {reason}. Merge it into the base model and name "
            "that as model.source, or remove model.adapterSource."
        )


def _settings(config: AdapterConfig, method: Method) -> Iterator[tuple[str, object, object]]:
    """Field of the job, the adapter's value, the job's value."""
    kind = method.type
    if kind in (MethodType.LORA, MethodType.QLORA):
        yield "method.lora.rank", config.r, method.lora.rank
        yield "method.lora.alpha", f"{config.lora_alpha:g}", f"{method.lora.alpha:g}"
        yield "method.lora.variant", str(config.variant), str(method.lora.variant)
        theirs = set(config.modules_to_save) - (_HEADS if config.task_type == "SEQ_CLS" else set())
        mine = method.lora.fully_trained_modules or []
        yield "method.lora.fullyTrainedModules", _listed(theirs), _listed(mine)
    elif kind is MethodType.ADA_LORA:
        yield "method.adaLora.initialRank", config.init_r, method.ada_lora.initial_rank
        yield "method.adaLora.alpha", f"{config.lora_alpha:g}", f"{method.ada_lora.alpha:g}"
    elif kind is MethodType.PREFIX_TUNING:
        yield "method.prefixTuning.projection", "false", str(method.prefix_tuning.projection).lower()
        mine_tokens = method.prefix_tuning.virtual_tokens
        yield "method.prefixTuning.virtualTokens", config.num_virtual_tokens, mine_tokens
    elif kind is MethodType.PROMPT_TUNING:
        mine_tokens = method.prompt_tuning.virtual_tokens
        yield "method.promptTuning.virtualTokens", config.num_virtual_tokens, mine_tokens


def _another(origin: str, differences: list[str]) -> UserError:
    return UserError(
        f"model.adapterSource {origin} is another adapter than this job asks for: {'; '.join(differences)}. Set what "
        "it has, or remove model.adapterSource to start a new one."
    )


# --- tensors ---------------------------------------------------------------------------------------------------


def _key(name: str) -> tuple[str, str] | None:
    """Place and kind of an adapter's tensor; None for the weight of a module that is trained whole."""
    if name == "prompt_embeddings":
        return "", name
    path = name.removeprefix(_PREFIX)
    kind = next((kind for kind in _KINDS if path.endswith(f".{kind}")), None)
    return (Layer(path.removesuffix(f".{kind}"), (0, 0)).place, kind) if kind is not None else None


def _difference_of_layers(
    method: Method, wanted: Collection[tuple[str, str]], theirs: Collection[tuple[str, str]]
) -> str:
    field = {MethodType.ADA_LORA: "method.adaLora", MethodType.IA3: "method.ia3"}.get(
        method.type, "method.lora"
    )
    mine, other = ({place.rpartition(".")[2] for place, _ in keys} for keys in (wanted, theirs))
    if mine != other:
        return f"its {field}.targetModules are {_listed(other)}, this job's {_listed(mine)}"
    place, kind = min(set(wanted) ^ set(theirs))
    has = "has" if (place, kind) in theirs else "lacks"
    return f"it {has} {_tensor_name(place, kind)}, unlike what {field}.targetModules stands for in this job"


def _tensor_name(place: str, kind: str) -> str:
    return f"{place}.{kind}" if place else kind


def _listed(names: Collection[str]) -> str:
    return f"[{', '.join(sorted(names))}]"


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(str(size) for size in shape)
