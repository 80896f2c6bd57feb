"""How long rows may be, with and without virtual tokens before them."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.spec import Method, Preparation
from finetune_api.spec.preparation import DEFAULT_MAX_LENGTH
from finetune_trainer.errors import UserError
from finetune_trainer.row_lengths import count_virtual_tokens, decide_max_length, refuse_long_rows


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        pytest.param({"type": "LoRA"}, 0, id="LoRA"),
        pytest.param({"type": "PrefixTuning", "prefixTuning": {"virtualTokens": 7}}, 7, id="prefix tuning"),
        pytest.param({"type": "PromptTuning"}, 20, id="prompt tuning"),
    ],
)
def test_virtual_tokens_are_those_of_the_method(method: dict[str, Any], expected: int) -> None:
    assert count_virtual_tokens(Method.model_validate(method)) == expected


@pytest.mark.parametrize(
    ("context_length", "virtual_tokens", "expected"),
    [
        pytest.param(None, 20, DEFAULT_MAX_LENGTH, id="a context that nobody declares"),
        pytest.param(32_768, 20, DEFAULT_MAX_LENGTH, id="a long context"),
        pytest.param(1000, 0, 800, id="a short context leaves room for an answer"),
        pytest.param(1000, 100, 720, id="virtual tokens take their part of it first"),
    ],
)
def test_default(context_length: int | None, virtual_tokens: int, expected: int) -> None:
    assert decide_max_length(Preparation(), context_length, virtual_tokens) == expected


@pytest.mark.parametrize(("max_length", "virtual_tokens"), [(1000, 0), (980, 20)])
def test_rows_may_fill_the_context(max_length: int, virtual_tokens: int) -> None:
    refuse_long_rows(1000, max_length, virtual_tokens)
    refuse_long_rows(None, max_length + 1, virtual_tokens)


@pytest.mark.parametrize(
    ("max_length", "virtual_tokens", "sentence"),
    [
        pytest.param(
            1001,
            0,
            "dataset.preparation.maxLength 1001 is longer than the model's context of 1000 tokens. Set maxLength to at "
            "most 1000.",
            id="rows alone",
        ),
        pytest.param(
            981,
            20,
            "dataset.preparation.maxLength 981 and the 20 virtualTokens of the method together are longer than the "
            "model's context of 1000 tokens. Set maxLength to at most 980, or fewer virtualTokens.",
            id="rows and virtual tokens",
        ),
        pytest.param(
            8,
            999,
            "The 999 virtualTokens of the method leave no room for a row in the model's context of 1000 tokens. Set "
            "fewer virtualTokens.",
            id="virtual tokens alone",
        ),
    ],
)
def test_more_than_the_context_is_refused(max_length: int, virtual_tokens: int, sentence: str) -> None:
    with pytest.raises(UserError) as refusal:
        refuse_long_rows(1000, max_length, virtual_tokens)
    assert refusal.value.message == sentence
