"""Every format in every container, from the raw file to token ids and mask.

The tokenizer's ids are bytes, so what is expected is written down by hand: a text with the learned part between « and ».
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from finetune_api.spec import DataFormat, DataSource, LossOn, Task
from finetune_trainer.data.encoding import EncoderSettings, ExampleEncoder
from finetune_trainer.data.formats import FormatContext, decide_format, label_of, read_example
from finetune_trainer.data.prepared import TokenizedRow
from finetune_trainer.data.rows import RawRow, RowProblem, Split
from finetune_trainer.data.sources import LocalFile, LocalSource, read_rows
from tests.builders.model_folders import CHATML, SPECIAL_TOKENS, known_template, write_tokenizer_folder
from tests.builders.row_files import COMPRESSIONS, CONTAINERS

Rows = Sequence[Mapping[str, object]]


@dataclass(frozen=True)
class Case:
    """Rows of a format, and for each what it must become."""

    format: DataFormat
    rows: Rows
    expected: tuple[str, ...]
    task: Task = Task.CAUSAL_LM
    labels: tuple[str, ...] = ()
    expected_labels: tuple[int | None, ...] = (None, None)
    template: str = CHATML
    settings: Mapping[str, Any] = field(default_factory=dict)


def turn(role: str, content: str) -> str:
    return f"<|im_start|>{role}\n{content}<|im_end|>\n"


def answer(content: str) -> str:
    return f"<|im_start|>assistant\n«{content}<|im_end|>»\n"


def chat(question: str, reply: str) -> str:
    return turn("user", question) + answer(reply)


QWEN3 = known_template("qwen3")
THINK = "<think>\n\n</think>\n\n"
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Ulm"}'}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
TOOL_INSTRUCTIONS = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function "
    "signatures within <tools></tools> XML tags:\n<tools>\n"
    '{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}'
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n'
    "</tool_call>"
)
CLASSIFY = "Classify the text. Answer with one of these labels: bad, good.\n\n"

CASES: dict[str, Case] = {
    "Messages": Case(
        DataFormat.MESSAGES,
        [
            {
                "messages": [
                    {"role": "user", "content": "订单?"},
                    {"role": "assistant", "content": "已发货。"},
                ]
            },
            {
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": "q"},
                    {"role": "assistant", "content": "a"},
                    {"role": "user", "content": "q2"},
                    {"role": "assistant", "content": "a2"},
                ]
            },
        ],
        (
            chat("订单?", "已发货。"),
            turn("system", "Be brief.") + chat("q", "a") + chat("q2", "a2"),
        ),
    ),
    "Messages with tools, by Qwen3": Case(
        DataFormat.MESSAGES,
        [
            {
                "messages": [
                    {"role": "user", "content": "Warm?"},
                    {"role": "assistant", "content": None, "tool_calls": [CALL]},
                    {"role": "tool", "content": "22", "tool_call_id": "c1"},
                    {"role": "assistant", "content": "Yes."},
                ],
                "tools": [TOOL],
            }
        ],
        (
            turn("system", TOOL_INSTRUCTIONS)
            + turn("user", "Warm?")
            + answer(
                f'{THINK}<tool_call>\n{{"name": "weather", "arguments": {{"city": "Ulm"}}}}\n</tool_call>'
            )
            + turn("user", "<tool_response>\n22\n</tool_response>")
            + answer(f"{THINK}Yes."),
        ),
        expected_labels=(None,),
        template=QWEN3,
    ),
    "Messages with reasoning, by Qwen3": Case(
        DataFormat.MESSAGES,
        [
            {
                "messages": [
                    {"role": "user", "content": "2+2?"},
                    {"role": "assistant", "content": "4", "reasoning_content": "Two pairs."},
                ]
            },
            {
                "messages": [
                    {"role": "user", "content": "2+2?"},
                    {"role": "assistant", "content": "<think>\nTwo pairs.\n</think>\n\n4"},
                ]
            },
        ],
        (chat("2+2?", "<think>\nTwo pairs.\n</think>\n\n4"),) * 2,
        template=QWEN3,
    ),
    "ShareGPT": Case(
        DataFormat.SHARE_GPT,
        [
            {
                "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}],
                "system": "s",
            },
            {
                "conversations": [{"from": "user", "value": "问"}, {"from": "assistant", "value": "答"}],
                "system": "",
            },
        ],
        (turn("system", "s") + chat("q", "a"), chat("问", "答")),
    ),
    "Alpaca": Case(
        DataFormat.ALPACA,
        [
            {"instruction": "Translate.", "input": "Haus", "output": "house", "history": [["q1", "a1"]]},
            {"instruction": "Hi", "input": "", "output": "Hello", "history": []},
        ],
        (chat("q1", "a1") + chat("Translate.\nHaus", "house"), chat("Hi", "Hello")),
    ),
    "PromptCompletion": Case(
        DataFormat.PROMPT_COMPLETION,
        [{"prompt": "2 + 2 =", "completion": " 4"}, {"prompt": "天", "completion": "气"}],
        ("2 + 2 =« 4<|im_end|>»", "天«气<|im_end|>»"),
    ),
    "InputTarget": Case(
        DataFormat.INPUT_TARGET,
        [{"input_text": "q", "target_text": "a"}, {"input_text": "多,\n行", "target_text": '"quoted"'}],
        (chat("q", "a"), chat("多,\n行", '"quoted"')),
    ),
    "InputTarget as question and answer": Case(
        DataFormat.INPUT_TARGET, [{"question": "q", "answer": "a"}] * 2, (chat("q", "a"),) * 2
    ),
    "InputTarget as query and response": Case(
        DataFormat.INPUT_TARGET, [{"query": "q", "response": "a"}] * 2, (chat("q", "a"),) * 2
    ),
    "InputTarget in named columns": Case(
        DataFormat.INPUT_TARGET,
        [{"frage": "q", "antwort": "a", "answer": "wrong"}] * 2,
        (chat("q", "a"),) * 2,
        settings={"columns": {"input": "frage", "target": "antwort"}},
    ),
    "Dialogue as a sequence of role and text": Case(
        DataFormat.DIALOGUE,
        [{"dialogue_sequence": [{"role": "user", "text": "q"}, {"role": "assistant", "text": "a"}]}] * 2,
        (chat("q", "a"),) * 2,
    ),
    "Dialogue as conversations with a domain": Case(
        DataFormat.DIALOGUE,
        [
            {
                "conversations": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
                "domain": "shop",
            }
        ]
        * 2,
        (chat("q", "a"),) * 2,
    ),
    "Dialogue in plain text": Case(
        DataFormat.DIALOGUE,
        [
            {"text": "用户：在吗\n助手：在的\n请讲"},
            {"text": "User: q\nAssistant: a\nUser: q2\nAssistant: a2"},
        ],
        (chat("在吗", "在的\n请讲"), chat("q", "a") + chat("q2", "a2")),
    ),
    "Text": Case(
        DataFormat.TEXT,
        [{"text": "Once upon a time."}, {"text": "第一行\n第二行"}],
        ("«Once upon a time.<|im_end|>»", "«第一行\n第二行<|im_end|>»"),
    ),
    "Classification": Case(
        DataFormat.CLASSIFICATION,
        [{"text": "Great!", "label": "good"}, {"text": "差", "label": "bad"}],
        ("Great!", "差"),
        task=Task.SEQUENCE_CLASSIFICATION,
        labels=("bad", "good"),
        expected_labels=(1, 0),
    ),
    "Classification by numbers": Case(
        DataFormat.CLASSIFICATION,
        [{"text": "Great!", "label": 1}, {"text": "差", "label": 0}],
        ("Great!", "差"),
        task=Task.SEQUENCE_CLASSIFICATION,
        labels=("0", "1"),
        expected_labels=(1, 0),
    ),
    "Classification as an instruction": Case(
        DataFormat.CLASSIFICATION,
        [{"text": "Great!", "label": "good"}, {"text": "差", "label": "bad"}],
        (chat(f"{CLASSIFY}Great!", "good"), chat(f"{CLASSIFY}差", "bad")),
    ),
}
_SPECIAL = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)) + "|[«»]")


def by_hand(text: str) -> tuple[list[int], list[int]]:
    """Ids and mask of a text in which « and » are around what is learned: bytes as they are, special tokens from 256."""
    ids: list[int] = []
    mask: list[int] = []
    position, is_learned = 0, 0
    while position < len(text):
        special = _SPECIAL.match(text, position)
        word = special[0] if special else text[position]
        position += len(word)
        if word in "«»":
            is_learned = int(word == "«")
            continue
        tokens = [256 + SPECIAL_TOKENS.index(word)] if special else list(word.encode())
        ids += tokens
        mask += [is_learned] * len(tokens)
    return ids, mask


def as_cells(rows: Rows) -> list[dict[str, object]]:
    """Rows for .csv and .tsv, which have no lists: there they are JSON text."""
    return [
        {
            key: json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value
            for key, value in row.items()
        }
        for row in rows
    ]


def encoded(case: Case, path: Path, model: Path) -> list[TokenizedRow]:
    settings = DataSource.model_validate({"source": "s3://data/rows.jsonl", **case.settings})
    source = LocalSource("rows", "dataset.train[0]", settings, Split.TRAIN, (LocalFile(path.name, path),))
    rows = list(read_rows(source))
    row_format = decide_format(
        settings,
        "rows",
        [row.value for row in rows if isinstance(row, RawRow) and isinstance(row.value, dict)],
    )
    assert row_format.format is case.format
    found = (label_of(row, row_format) for row in rows if isinstance(row, RawRow))
    labels = case.labels or tuple(sorted({label for label in found if isinstance(label, str)}))
    context = FormatContext(case.task, None, labels)
    encoder = ExampleEncoder.build(
        EncoderSettings(model, case.template, "the model", LossOn.ASSISTANT, labels)
    )
    examples = [
        row if isinstance(row, RowProblem) else read_example(row, row_format, context) for row in rows
    ]
    usable = [example for example in examples if not isinstance(example, RowProblem)]
    assert len(usable) == len(examples), examples
    result = encoder.encode(usable)
    tokenized = [row for row in result if isinstance(row, TokenizedRow)]
    assert len(tokenized) == len(result), result
    return tokenized


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer_folder(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("compression", COMPRESSIONS, ids=lambda suffix: suffix or "plain")
@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", CASES)
def test_a_file_becomes_the_tokens_that_were_worked_out_by_hand(
    name: str, container: str, compression: str, model: Path, tmp_path: Path
) -> None:
    case = CASES[name]
    rows = as_cells(case.rows) if container in (".csv", ".tsv") else case.rows
    path = tmp_path / f"rows{container}{compression}"
    path.write_bytes(COMPRESSIONS[compression](CONTAINERS[container](rows)))
    expected = [by_hand(text) for text in case.expected]
    found = encoded(case, path, model)
    assert [(list(row.input_ids), list(row.learned)) for row in found] == expected
    assert tuple(row.label for row in found) == case.expected_labels


@pytest.mark.parametrize("compression", COMPRESSIONS, ids=lambda suffix: suffix or "plain")
@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        pytest.param(
            "Dialogue in plain text",
            "用户:在吗\n助手:在的\n\nUser: q\nAssistant: a\n",
            (chat("在吗", "在的"), chat("q", "a")),
            id="Dialogue",
        ),
        pytest.param(
            "Text",
            "Once upon a time.\r\n\r\n\r\n第一行\r\n第二行\r\n",
            ("«Once upon a time.<|im_end|>»", "«第一行\n第二行<|im_end|>»"),
            id="Text",
        ),
    ],
)
def test_a_text_file_becomes_the_tokens_that_were_worked_out_by_hand(
    name: str, text: str, expected: tuple[str, ...], compression: str, model: Path, tmp_path: Path
) -> None:
    path = tmp_path / f"rows.txt{compression}"
    path.write_bytes(COMPRESSIONS[compression](text.encode()))
    found = encoded(CASES[name], path, model)
    assert [(list(row.input_ids), list(row.learned)) for row in found] == [by_hand(each) for each in expected]


def test_the_ids_worked_out_by_hand_are_bytes_and_special_tokens() -> None:
    assert by_hand("a<|im_start|>«é<|im_end|>»") == ([97, 257, 0xC3, 0xA9, 258], [0, 0, 1, 1, 1])
