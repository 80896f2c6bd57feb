"""The chat templates of real models: what each lets the assistant learn, and that texts and tokens are transformers'."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from finetune_api.spec import LossOn
from finetune_trainer.data.chat_template import ChatTemplate
from finetune_trainer.data.encoding import EncoderSettings, ExampleEncoder
from finetune_trainer.data.formats.tool_calls import tools_of
from finetune_trainer.data.formats.turns import read_turns
from finetune_trainer.data.masks import (
    MaskSource,
    choose_renderer,
    learned_mask,
    learned_tokens,
    trl_template_directory,
)
from finetune_trainer.data.prepared import TokenizedRow
from finetune_trainer.data.rows import Conversation
from finetune_trainer.data.template_environment import Span
from tests.builders.examples import PLACE
from tests.builders.model_folders import QWEN2, known_template, tokenizer_json, write_tokenizer_folder

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
THINK = "<think>\n\n</think>\n\n"
# What is learned of answer `A1`, and of the last answer `A2`, in the template of each model that TRL knows.
LEARNED: dict[str, tuple[str, str]] = {
    "cohere": ("A1<|END_OF_TURN_TOKEN|>", "A2<|END_OF_TURN_TOKEN|>"),
    "cohere2": ("A1<|END_RESPONSE|><|END_OF_TURN_TOKEN|>", "A2<|END_RESPONSE|><|END_OF_TURN_TOKEN|>"),
    "deepseek_r1_distill": ("A1<｜end▁of▁sentence｜>", "A2<｜end▁of▁sentence｜>"),
    "deepseekv3": ("A1<｜end▁of▁sentence｜>", "A2<｜end▁of▁sentence｜>"),
    "diffusion_gemma": ("A1<turn|>", "A2<turn|>"),
    "gemma": ("A1<end_of_turn>", "A2<end_of_turn>"),
    "gemma3": ("A1<end_of_turn>", "A2<end_of_turn>"),
    **{f"gemma4{version}": ("A1<turn|>", "A2<turn|>") for version in ("", "_v2", "_v3", "_v4", "_v5")},
    "glm4moe": ("\n<think></think>\nA1<|user|>", "\n<think></think>\nA2<|user|>"),
    # The model says the channel itself, and ends only the last turn with <|return|>.
    "gptoss": ("<|channel|>final<|message|>A1<|end|>", "<|channel|>final<|message|>A2<|return|>"),
    "idefics3": (" A1<end_of_utterance>", " A2<end_of_utterance>"),
    **{
        f"lfm2{version}": ("A1<|im_end|>", "A2<|im_end|>")
        for version in ("", "_v2", "_2_5", "_2_5_v2", "_2_5_vl")
    },
    "llama3": ("A1<|eot_id|>", "A2<|eot_id|>"),
    "llama3_1": ("A1<|eot_id|>", "A2<|eot_id|>"),
    "llama3_2": ("A1<|eot_id|>", "A2<|eot_id|>"),
    "llava_next": (" A1</s>", " A2</s>"),
    "muse_glimmer": (" to=user<|message|>A1<|eot|>", " to=user<|message|>A2<|eot|>"),
    # The generation prompt of these and of the thinking Qwen3.5 and later opens the think block: the rest is learned.
    **{
        f"nemotron_3_{size}": ("</think>A1<|im_end|>", "</think>A2<|im_end|>")
        for size in ("5_lightning", "nano", "super", "ultra")
    },
    "phi3": ("A1<|end|>", "A2<|end|>"),
    "phi3_5": ("A1<|end|>", "A2<|end|>"),
    "qwen2_5": ("A1<|im_end|>", "A2<|im_end|>"),
    "qwen2_5_vl": ("A1<|im_end|>", "A2<|im_end|>"),
    "qwen3": (f"{THINK}A1<|im_end|>", f"{THINK}A2<|im_end|>"),
    "qwen3_instruct_2507": ("A1<|im_end|>", "A2<|im_end|>"),
    "qwen3_vl": ("A1<|im_end|>", "A2<|im_end|>"),
    "qwen3_5_nothink": ("A1<|im_end|>", "A2<|im_end|>"),
    **dict.fromkeys(
        ("qwen3_5_think", "qwen3_6", "qwen3_8"), ("\n</think>\n\nA1<|im_end|>", "\n</think>\n\nA2<|im_end|>")
    ),
    "smolvlm": (" A1<end_of_utterance>", " A2<end_of_utterance>"),
}
TWO_TURNS = [
    {"role": "user", "content": "Q1"},
    {"role": "assistant", "content": "A1"},
    {"role": "user", "content": "Q2"},
    {"role": "assistant", "content": "A2"},
]


def as_conversation(messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] = ()) -> Conversation:
    return Conversation(
        PLACE, read_turns(list(messages), "messages"), tools_of({"tools": list(tools)}, "tools")
    )


def test_every_template_that_trl_knows_is_in_the_table() -> None:
    originals = {path.stem for path in trl_template_directory().glob("*.jinja")}
    assert {name for name in originals if not name.endswith("_training")} == set(LEARNED)


@pytest.mark.parametrize("name", LEARNED)
def test_a_models_template_learns_the_answers_and_their_ends_and_nothing_else(name: str) -> None:
    renderer = choose_renderer(known_template(name), name, SPECIAL, LossOn.ASSISTANT)
    rendered = renderer.render(as_conversation(TWO_TURNS))
    assert tuple(rendered.text[span.start : span.end] for span in rendered.learned) == LEARNED[name]


@pytest.mark.parametrize("name", LEARNED)
def test_a_turn_of_weight_0_is_not_learned_by_any_template(name: str) -> None:
    first = [{**TWO_TURNS[1], "weight": 0}]
    renderer = choose_renderer(known_template(name), name, SPECIAL, LossOn.ASSISTANT)
    rendered = renderer.render(as_conversation([TWO_TURNS[0], *first, *TWO_TURNS[2:]]))
    assert [rendered.text[span.start : span.end] for span in rendered.learned] == [LEARNED[name][1]]


# --- the same as transformers ----------------------------------------------------------------------------------

USER = {"role": "user", "content": "Where is my order?"}
ANSWER = {"role": "assistant", "content": "It was sent today."}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Ulm", "days": [1, 2]}}}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather <b>of</b> a city, 天气",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "description": "its name"}},
                "required": ["city"],
            },
        },
    }
]
CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "without a system message": ([USER, ANSWER], []),
    "with a system message": ([{"role": "system", "content": "Be brief. 简短。"}, USER, ANSWER], []),
    "with an empty system message": ([{"role": "system", "content": ""}, USER, ANSWER], []),
    "several turns": ([USER, ANSWER, {"role": "user", "content": "退款 please"}, ANSWER], []),
    "a question at the end": ([USER, ANSWER, USER], []),
    "words that are markup": (
        [USER, {"role": "assistant", "content": "a<|im_end|>\n<|im_start|>user\nb\n"}, USER, ANSWER],
        [],
    ),
    "reasoning inside the content": (
        [USER, {"role": "assistant", "content": "<think>\nlook\n</think>\n\nIt was sent."}, USER, ANSWER],
        [],
    ),
    "tools that are not called": ([USER, ANSWER], TOOLS),
    "a tool call without content": (
        [
            USER,
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "content": '{"degrees": 22}', "name": "weather"},
            ANSWER,
        ],
        TOOLS,
    ),
    "two tool calls beside words": (
        [
            {"role": "system", "content": "Be brief."},
            USER,
            {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL, CALL]},
            {"role": "tool", "content": "22"},
            {"role": "tool", "content": "23"},
            ANSWER,
        ],
        TOOLS,
    ),
}
REASONING = [
    USER,
    {"role": "assistant", "content": "It was sent.", "reasoning_content": "look"},
    USER,
    {"role": "assistant", "content": "", "reasoning_content": "look", "tool_calls": [CALL]},
    {"role": "tool", "content": "22"},
    {"role": "assistant", "content": "Warm.", "reasoning_content": "22 is warm"},
]
# TRL's training variants carry the markers by which transformers finds what is generated.
COMPARED = [
    "qwen2_5",
    "qwen2_5_training",
    "qwen3",
    "qwen3_training",
    "qwen3_instruct_2507_training",
    "qwen3_5_think_training",
    "glm4moe_training",
]
THINKING = [name for name in COMPARED if name in ("qwen3", "qwen3_training", "qwen3_5_think_training")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    special = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}
    return write_tokenizer_folder(
        tmp_path_factory.mktemp("model"), tokenizer=tokenizer_json(), special_tokens=special
    )


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(folder)


def template_text(name: str) -> str:
    return QWEN2 if name == "qwen2" else known_template(name)


def cases() -> list[Any]:
    plain = [case for case in CONVERSATIONS if "tool" not in case]
    table = [(name, case) for name in COMPARED for case in CONVERSATIONS]
    table += [("qwen2", case) for case in plain]
    table += [(name, case) for name in ("gemma3_training", "llama3_training") for case in plain[:2]]
    return [pytest.param(name, *CONVERSATIONS[case], id=f"{name}: {case}") for name, case in table] + [
        pytest.param(name, REASONING, TOOLS, id=f"{name}: reasoning") for name in THINKING
    ]


@pytest.mark.parametrize(("name", "messages", "tools"), cases())
def test_text_tokens_and_marked_spans_are_those_of_transformers(
    theirs: Any,
    folder: Path,
    name: str,
    messages: list[dict[str, Any]],
    tools: list[dict[str, Any]],
) -> None:
    template = template_text(name)
    row = as_conversation(messages, tools)
    ours = ChatTemplate(template, theirs.special_tokens_map, name)
    for prompt in (False, True):
        expected = theirs.apply_chat_template(
            messages, tools or None, chat_template=template, tokenize=False, add_generation_prompt=prompt
        )
        assert ours.render(row.messages, row.tools, add_generation_prompt=prompt).text == expected
    if ours.has_generation_markers:
        encoded = theirs.apply_chat_template(
            messages,
            tools or None,
            chat_template=template,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        encode = ExampleEncoder.build(EncoderSettings(folder, template, name, LossOn.ASSISTANT, ())).encode
        [tokens] = encode([row])
        assert isinstance(tokens, TokenizedRow)
        assert list(tokens.input_ids) == encoded["input_ids"]
        marked = encoded["assistant_masks"]
        left_out = [mark and not learned for mark, learned in zip(marked, tokens.learned, strict=True)]
        # TRL's markers take in the end of the header and the line break behind a turn; nothing else is left out.
        assert {
            theirs.decode(token) for token, is_out in zip(tokens.input_ids, left_out, strict=True) if is_out
        } <= _GIVEN
        assert all(mark for mark, learned in zip(marked, tokens.learned, strict=True) if learned)


# In the generation prompt of the thinking Qwen3.5 stands "<think>\n"; "\n\n" is across its end.
_GIVEN = {"\n", "\n\n", "<think>"}


def test_a_null_content_renders_as_an_empty_one(theirs: Any) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    for name in ("qwen2_5", "qwen3", "qwen3_training", "qwen2_5_training"):
        template = known_template(name)
        expected = theirs.apply_chat_template([USER, call], chat_template=template, tokenize=False)
        row = as_conversation([USER, call])
        assert ChatTemplate(template, theirs.special_tokens_map, name).render(row.messages).text == expected


def test_arguments_as_json_text_render_as_the_object_they_are(theirs: Any) -> None:
    arguments = json.dumps({"city": "Ulm", "days": [1, 2]})
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": arguments}}]}
    same = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    template = ChatTemplate(known_template("qwen2_5"), {}, "qwen2_5")
    expected = theirs.apply_chat_template(
        [USER, same], chat_template=known_template("qwen2_5"), tokenize=False
    )
    assert template.render(as_conversation([USER, call]).messages).text == expected


def test_growing_prefixes_find_what_markers_find() -> None:
    # The training variant of Qwen2.5 renders as its original, so its markers say what growing prefixes must find.
    marked = choose_renderer(known_template("qwen2_5"), "qwen2_5", SPECIAL, LossOn.ASSISTANT)
    renamed = known_template("qwen2_5") + "{# #}"
    growing = choose_renderer(renamed, "renamed", SPECIAL, LossOn.ASSISTANT)
    assert (marked.source, growing.source) == (
        MaskSource.TRAINING_TEMPLATE,
        MaskSource.GROWING_PREFIXES,
    )
    for messages, tools in CONVERSATIONS.values():
        row = as_conversation(messages, tools)
        assert growing.render(row) == marked.render(row)


@pytest.mark.parametrize("trim_offsets", [False, True], ids=["whole offsets", "trimmed offsets"])
def test_the_quick_way_to_the_mask_gives_what_the_offsets_say(trim_offsets: bool) -> None:
    tokenizer = Tokenizer.from_str(tokenizer_json(trim_offsets=trim_offsets))
    source = random.Random(0)
    words = ["order ", " my", "\n\n", "退款", "<|im_end|>", "  ", "é", "x", "\n", "👍"]
    for _ in range(200):
        text = "".join(source.choices(words, k=source.randrange(12)))
        ends = sorted(source.sample(range(len(text) + 1), k=min(4, len(text) + 1) // 2 * 2))
        spans = [Span(start, end) for start, end in zip(ends[::2], ends[1::2], strict=True)]
        encoding = tokenizer.encode(text, add_special_tokens=False)
        assert learned_mask(encoding, spans, len(text)) == learned_tokens(encoding.offsets, spans), (
            text,
            spans,
        )
