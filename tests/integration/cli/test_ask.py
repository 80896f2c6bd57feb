"""`finetune ask` with real, tiny models: a merged one, an adapter with its base, one without a chat template."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from finetune_cli.ask import Question, answer
from tests.builders.tiny_models import write_model

FINETUNE = str(Path(sys.executable).with_name("finetune"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights large enough that different prompts have different answers."""
    return write_model(
        tmp_path_factory.mktemp("models") / "merged", seed=3, initializer_range=0.3, tie_word_embeddings=False
    )


@pytest.fixture(scope="module")
def adapter(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter of the model whose weights are far from zero."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model)
    tuned = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"]))
    torch.manual_seed(5)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=1.0)
    folder = tmp_path_factory.mktemp("models") / "adapter"
    tuned.save_pretrained(folder)
    return folder


def test_greedy_answers_repeat_and_are_bounded(model: Path) -> None:
    question = Question("Where is my parcel?", max_new_tokens=7)
    first, second = answer(model, None, question), answer(model, None, question)
    assert first == second
    assert first.remarks == ("The answer is cut after 7 tokens; raise --max-new-tokens.",)


def test_the_system_message_reaches_the_model(model: Path) -> None:
    plain = answer(model, None, Question("Where?", max_new_tokens=12))
    told = answer(model, None, Question("Where?", system="Answer in Chinese. " * 4, max_new_tokens=12))
    assert plain.text != told.text


def test_an_adapter_changes_the_answer_of_its_base(model: Path, adapter: Path) -> None:
    question = Question("Where is my parcel?", max_new_tokens=12)
    assert answer(adapter, model, question).text != answer(model, None, question).text


def test_a_model_without_a_chat_template_is_said_to_be_one(model: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(model, plain)
    (plain / "chat_template.jinja").unlink()
    reply = answer(plain, None, Question("Once", max_new_tokens=3))
    assert f"{plain} has no chat template: the model was given the prompt as it is." in reply.remarks


def test_the_command_prints_the_answer_alone_on_standard_output(model: Path) -> None:
    expected = answer(model, None, Question("Where?", max_new_tokens=5))
    result = subprocess.run(
        [FINETUNE, "ask", str(model), "Where?", "--max-new-tokens", "5"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == expected.text + "\n"
    assert result.stderr == "".join(f"finetune: {remark}\n" for remark in expected.remarks)
