"""One way to write each character."""

from __future__ import annotations

import pytest

from finetune_trainer.data.cleaning.control_characters import remove_control_characters
from finetune_trainer.data.cleaning.normalization import compose, compose_compatibly, narrow


@pytest.mark.parametrize(
    ("text", "expected", "characters"),
    [
        pytest.param("ＡＢＣ１２３", "ABC123", 6, id="letters and digits"),
        pytest.param("你好　世界", "你好 世界", 1, id="the wide space"),
        pytest.param("３．１４", "3.14", 4, id="a point between digits"),
        pytest.param("ａ＠ｂ．ｃｏｍ", "a@b.com", 7, id="signs between letters"),
        pytest.param("ｈｔｔｐ：／／ａ．ｂ", "http://a.b", 10, id="an address"),
        pytest.param("１，０００元", "1,000元", 5, id="a comma inside a number"),
        pytest.param("１０：３０", "10:30", 5, id="a colon inside a time"),
        pytest.param("你好，世界！（真的？）", "你好，世界！（真的？）", 0, id="Chinese punctuation stays"),
        pytest.param(
            "支持ＩＯＳ，还有ＷＥＢ。", "支持IOS，还有WEB。", 6, id="Chinese punctuation beside letters stays"
        ),
        pytest.param("１０～２０", "10～20", 4, id="the range mark stays"),
        pytest.param("plain ASCII, 1:2", "plain ASCII, 1:2", 0, id="nothing wide"),
    ],
)
def test_wide_characters_become_narrow_where_they_are_not_chinese(
    text: str, expected: str, characters: int
) -> None:
    assert narrow(text) == (expected, characters)


def test_nfc_puts_letter_and_accent_together_and_leaves_the_rest() -> None:
    assert compose("e\u0301 ﬁ Ａ") == ("é ﬁ Ａ", 1)
    assert compose("é") == ("é", 0)


def test_nfkc_also_replaces_ligatures_circles_and_wide_forms() -> None:
    assert compose_compatibly("ﬁ ① Ａ") == ("fi 1 A", 1)
    assert compose_compatibly("fi 1 A，") == ("fi 1 A,", 1)
    assert compose_compatibly("fi") == ("fi", 0)


FAMILY = "👨\u200d👩\u200d👧"
ENGLAND = "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"


@pytest.mark.parametrize(
    ("text", "expected", "characters"),
    [
        pytest.param("a\x00b\x1b[c\x7f\x9b", "ab[c", 4, id="C0, delete and C1"),
        pytest.param("a\tb\nc", "a\tb\nc", 0, id="tab and newline stay"),
        pytest.param("a\r\nb\rc\x0cd\x85e", "a\nb\nc\nd\ne", 5, id="other line ends become newlines"),
        pytest.param(
            "\ufeffa\u200bb\u2060c\u00add", "abcd", 4, id="zero width, byte-order mark, soft hyphen"
        ),
        pytest.param("\u202eevil\u202c \u2066x\u2069\u200f", "evil x", 5, id="marks of direction"),
        pytest.param(f"a {FAMILY} ❤️\u200d🔥", f"a {FAMILY} ❤️\u200d🔥", 0, id="emoji sequences stay whole"),
        pytest.param("a\u200db 👩\u200d c", "ab 👩 c", 2, id="a joiner that joins nothing"),
        pytest.param(
            "می\u200cخواهم क्\u200dष", "می\u200cخواهم क्\u200dष", 0, id="joiners in Persian and Hindi"
        ),
        pytest.param("in\u200cvisible", "invisible", 1, id="a non-joiner in English"),
        pytest.param(f"{ENGLAND} x", f"{ENGLAND} x", 0, id="the flag of England stays"),
        pytest.param("x\U000e0041\U000e0042y", "xy", 2, id="tag letters that hide text"),
        pytest.param("a\ud800b", "ab", 1, id="half a surrogate pair"),
    ],
)
def test_invisible_characters_go_unless_a_script_or_an_emoji_needs_them(
    text: str, expected: str, characters: int
) -> None:
    assert remove_control_characters(text) == (expected, characters)
