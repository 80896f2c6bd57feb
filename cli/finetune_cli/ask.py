"""`finetune ask`: one question to a pulled model, on this machine. torch and transformers are imported only here."""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from finetune_cli.errors import CommandError

ADAPTER_CONFIG_NAME = "adapter_config.json"
MODEL_CONFIG_NAME = "config.json"


@dataclass(frozen=True)
class Question:
    """What is asked, and how the answer is drawn."""

    prompt: str
    system: str | None = None
    max_new_tokens: int = 256
    temperature: float = 0.0


@dataclass(frozen=True)
class Answer:
    """The model's text, and what the user should know about it."""

    text: str
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelFolders:
    """Where the weights are; `adapter` is None for a merged model."""

    model: Path
    adapter: Path | None
    tokenizer: Path


def answer(directory: Path, base: Path | None, question: Question) -> Answer:
    """Load the model and let it answer."""
    folders = find_model(directory, base)
    torch, transformers = _import_stack()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders.tokenizer, local_files_only=True)
    model = _load_model(transformers, folders).to("cuda" if torch.cuda.is_available() else "cpu").eval()
    remarks = []
    if not tokenizer.chat_template:
        remarks.append(f"{folders.tokenizer} has no chat template: the model was given the prompt as it is.")
    inputs = _encode(tokenizer, question).to(model.device)
    with torch.inference_mode():
        tokens = model.generate(**inputs, **_generation_options(tokenizer, question))[0]
    new_tokens = tokens[inputs["input_ids"].shape[1] :]
    if len(new_tokens) >= question.max_new_tokens and int(new_tokens[-1]) != tokenizer.eos_token_id:
        remarks.append(f"The answer is cut after {len(new_tokens)} tokens; raise --max-new-tokens.")
    return Answer(tokenizer.decode(new_tokens, skip_special_tokens=True).strip(), tuple(remarks))


def find_model(directory: Path, base: Path | None) -> ModelFolders:
    """Decide what the folder holds. Raises CommandError where it cannot be loaded as it is."""
    if not directory.is_dir():
        raise CommandError(f"{directory} is no folder. Pull a model first: finetune pull NAME.")
    if (directory / ADAPTER_CONFIG_NAME).is_file():
        model = base or _base_of(directory)
        return ModelFolders(model, adapter=directory, tokenizer=_with_tokenizer(directory, model))
    if not (directory / MODEL_CONFIG_NAME).is_file():
        raise CommandError(
            f"{directory} has neither {MODEL_CONFIG_NAME} nor {ADAPTER_CONFIG_NAME}: it is no model. "
            "Name a folder that `finetune pull` wrote."
        )
    if base is not None:
        raise CommandError(f"{directory} holds a whole model, not an adapter: leave --base out.")
    return ModelFolders(directory, adapter=None, tokenizer=directory)


def _base_of(adapter: Path) -> Path:
    source = (
        json.loads((adapter / ADAPTER_CONFIG_NAME).read_text()).get("base_model_name_or_path")
        or "its base model"
    )
    if not (Path(source) / MODEL_CONFIG_NAME).is_file():
        raise CommandError(
            f"{adapter} is an adapter of {source}. Fetch that model and name its folder with --base; "
            "or pull the merged model."
        )
    return Path(source)


def _with_tokenizer(adapter: Path, model: Path) -> Path:
    return adapter if (adapter / "tokenizer.json").is_file() else model


def _import_stack() -> tuple[ModuleType, ModuleType]:
    try:
        torch, transformers = importlib.import_module("torch"), importlib.import_module("transformers")
    except ImportError as error:
        raise CommandError(
            f"`finetune ask` runs the model here and needs PyTorch and transformers; {error.name} is not installed. "
            "Install them: pip install 'finetune-operator[trainer]'."
        ) from error
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return torch, transformers


def _load_model(transformers: ModuleType, folders: ModelFolders) -> Any:  # noqa: ANN401 (made by transformers)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folders.model, dtype="auto", local_files_only=True, use_safetensors=True
    )
    if folders.adapter is None:
        return model
    peft = importlib.import_module("peft")
    return peft.PeftModel.from_pretrained(model, folders.adapter, local_files_only=True)


def _encode(tokenizer: Any, question: Question) -> Any:  # noqa: ANN401
    if not tokenizer.chat_template:
        return tokenizer(question.prompt, return_tensors="pt")
    messages = [{"role": "user", "content": question.prompt}]
    if question.system is not None:
        messages.insert(0, {"role": "system", "content": question.system})
    return tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )


def _generation_options(tokenizer: Any, question: Question) -> dict[str, Any]:  # noqa: ANN401
    options: dict[str, Any] = {
        "max_new_tokens": question.max_new_tokens,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if question.temperature > 0:
        return {**options, "do_sample": True, "temperature": question.temperature}
    # The model's own generation_config may ask for sampling: greedy needs its settings unset, not only do_sample.
    return {**options, "do_sample": False, "temperature": None, "top_p": None, "top_k": None}
