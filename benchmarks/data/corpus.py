"""What is prepared: chat rows of a support desk in English and Chinese, as many as wanted, and a model's tokenizer."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from finetune_trainer.data.masks import trl_template_directory

VOCABULARY = 8192
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
)
_SUBJECTS = (
    "order",
    "invoice",
    "parcel",
    "refund",
    "account",
    "password",
    "voucher",
    "subscription",
    "address",
    "delivery",
)
_VERBS = ("find", "change", "cancel", "track", "return", "renew", "confirm", "explain", "repeat", "correct")
_ENGLISH = (
    "How do I {verb} my {subject} number {number}?",
    "I wanted to {verb} the {subject} that came on day {number}, and nothing happened. What now?",
    "Please {verb} {subject} {number} as soon as you can, I leave tomorrow.",
)
_ANSWERS = (
    "You can {verb} the {subject} on your account page, below the heading {number}.",
    "We have noted it: the {subject} {number} will be looked at within two days. Nothing else is needed from you.",
    "Done. The {subject} {number} is settled; a message with the details is on its way to you.",
)
_CHINESE_SUBJECTS = ("订单", "发票", "包裹", "退款", "账户", "密码", "优惠券", "会员", "地址", "配送")
_CHINESE = (
    "我的{subject}{number}在哪里？",
    "请帮我处理{subject}{number}，谢谢。",
    "为什么{subject}{number}还没有消息？",
)
_CHINESE_ANSWERS = (
    "您的{subject}{number}正在处理，请稍候。",
    "已经为您登记，{subject}{number}两天内会有结果。",
)


def make_rows(count: int, seed: int = 0) -> Iterator[dict[str, object]]:
    """Rows in Messages format; about one in four is Chinese, and no two are the same."""
    source = random.Random(seed)
    for number in range(count):
        if source.random() < 0.25:
            words = {"subject": source.choice(_CHINESE_SUBJECTS), "number": number}
            question, answer = source.choice(_CHINESE), source.choice(_CHINESE_ANSWERS)
        else:
            words = {"subject": source.choice(_SUBJECTS), "verb": source.choice(_VERBS), "number": number}
            question, answer = source.choice(_ENGLISH), source.choice(_ANSWERS)
        yield {
            "messages": [
                {"role": "user", "content": question.format(**words)},
                {"role": "assistant", "content": answer.format(**words)},
            ]
        }


def write_rows(path: Path, count: int, seed: int = 0) -> Path:
    """Write them as JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        for row in make_rows(count, seed):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


def write_tokenizer(folder: Path) -> Path:
    """Train a byte-level BPE tokenizer on such rows and write it as a Qwen3 model has it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=list(SPECIAL_TOKENS),
    )
    texts = (str(message["content"]) for row in make_rows(5000, seed=1) for message in row["messages"])  # type: ignore[attr-defined]
    tokenizer.train_from_iterator(texts, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    template = (trl_template_directory() / "qwen3.jinja").read_text(encoding="utf-8")
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder
