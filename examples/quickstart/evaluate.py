"""Measures how often a model directory names the right intent of a held-out support request, word for word.

The quickstart runs it on the base model and on the fine-tuned one:
`python -m examples.quickstart.evaluate MODEL_DIRECTORY [--json FILE]`.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

HELDOUT = Path(__file__).parent / "data" / "heldout.jsonl"
ROWS_PER_BATCH = 24


@dataclass(frozen=True)
class Example:
    request: str
    intent: str


@dataclass(frozen=True)
class Answer:
    request: str
    intent: str
    answer: str


@dataclass(frozen=True)
class Evaluation:
    """`accuracy` is the share of answers that equal the intent."""

    accuracy: float
    correct: int
    rows: int
    seconds: float
    answers: Sequence[Answer]


def evaluate(model_directory: Path, heldout: Path = HELDOUT) -> Evaluation:
    """Answer every held-out request greedily and compare with the intent."""
    started = time.monotonic()
    examples = load_examples(heldout)
    tokenizer = AutoTokenizer.from_pretrained(model_directory, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(model_directory).eval()
    answers = answer_all(model, tokenizer, examples)
    return build_evaluation(answers, seconds=round(time.monotonic() - started, 1))


def build_evaluation(answers: Sequence[Answer], seconds: float) -> Evaluation:
    """Count an answer as right only if it is the intent and nothing else."""
    correct = sum(answer.answer == answer.intent for answer in answers)
    return Evaluation(correct / len(answers), correct, len(answers), seconds, answers)


def load_examples(path: Path) -> list[Example]:
    """Load rows in the Messages format: one user turn, one assistant turn."""
    rows = [json.loads(line)["messages"] for line in path.read_text(encoding="utf-8").splitlines()]
    return [Example(request=user["content"], intent=assistant["content"]) for user, assistant in rows]


def answer_all(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]
) -> list[Answer]:
    # A few tokens more than the longest intent: an answer that goes on is wrong and need not be finished.
    longest_intent = max(len(tokenizer(example.intent)["input_ids"]) for example in examples)
    answers: list[Answer] = []
    for start in range(0, len(examples), ROWS_PER_BATCH):
        batch = examples[start : start + ROWS_PER_BATCH]
        texts = generate(model, tokenizer, [example.request for example in batch], longest_intent + 3)
        answers += [
            Answer(example.request, example.intent, text) for example, text in zip(batch, texts, strict=True)
        ]
    return answers


def generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[str], max_new_tokens: int
) -> list[str]:
    """Answer each request as a chat of its own, with greedy decoding."""
    inputs = tokenizer.apply_chat_template(
        [[{"role": "user", "content": request}] for request in requests],
        add_generation_prompt=True,
        padding=True,
        return_tensors="pt",
        return_dict=True,
    )
    with torch.inference_mode():
        output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    new_tokens = output[:, inputs["input_ids"].shape[1] :]
    return [tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in new_tokens]


def main() -> None:
    parser = argparse.ArgumentParser(description="Accuracy of a model directory on the held-out requests.")
    parser.add_argument("model", type=Path, help="model directory (weights, tokenizer, chat template)")
    parser.add_argument("--heldout", type=Path, default=HELDOUT, help="rows in the Messages format")
    parser.add_argument("--json", type=Path, help="write accuracy and every answer to this file")
    arguments = parser.parse_args()
    result = evaluate(arguments.model, arguments.heldout)
    if arguments.json:
        arguments.json.write_text(json.dumps(asdict(result), ensure_ascii=False, indent=1), encoding="utf-8")
    print(
        f"accuracy {result.accuracy:.1%} ({result.correct} of {result.rows} held-out rows, {result.seconds} s)"
    )


if __name__ == "__main__":
    main()
