"""Markup goes, what it marks stays; code, formulas and what only looks like markup stay too."""

from __future__ import annotations

import pytest

from finetune_trainer.data.cleaning.markup import remove_markup


@pytest.mark.parametrize(
    ("text", "expected", "occurrences"),
    [
        pytest.param("a **b** *c* __d!__ _e_ ~~f~~", "a b c d! e f", 5, id="emphasis"),
        pytest.param("***x*** and **bold and *both***", "x and bold and both", 3, id="marks within marks"),
        pytest.param("请**务必**注意", "请务必注意", 1, id="inside a Chinese sentence"),
        pytest.param("**注意：**请看", "注意：请看", 1, id="closed after Chinese punctuation"),
        pytest.param("**use `x*y` now**", "use `x*y` now", 1, id="around code"),
        pytest.param("# Title #\n\n### Part\ntext", "Title\n\nPart\ntext", 2, id="headings"),
        pytest.param("Title\n=====\ntext", "Title\ntext", 1, id="an underlined heading"),
        pytest.param('[text](http://x.y/a_(b) "title") end', "text end", 1, id="a link"),
        pytest.param("![a cat](cat.png)", "a cat", 1, id="an image leaves its description"),
        pytest.param("[![badge](b.svg)](http://x)", "badge", 2, id="an image in a link"),
        pytest.param("see [docs][1].\n\n[1]: https://x.y 'T'\n", "see docs.\n\n", 2, id="a reference link"),
        pytest.param("at <https://x.y/z>", "at https://x.y/z", 1, id="an address in brackets"),
        pytest.param(
            "| a | b |\n|---|:-:|\n| 1 | `2|3` |\nend", "a\tb\n1\t`2|3`\nend", 1, id="a table: tabs"
        ),
        pytest.param("[[Page|shown]] [[Other]]", "shown Other", 2, id="wiki links"),
        pytest.param("x [[分类:城市]]y", "x y", 1, id="a wiki category has no words"),
        pytest.param("[b]bold[/b] [url=http://x]y[/url] [IMG]http://i[/IMG]z", "bold y z", 5, id="BBCode"),
        pytest.param("[list][*]a\n[*]b[/list]", "- a\n- b", 4, id="a list of BBCode"),
    ],
)
def test_markup_goes(text: str, expected: str, occurrences: int) -> None:
    assert remove_markup(text) == (expected, occurrences)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("2*3*4 = 24 and 2**3**4", id="products and powers"),
        pytest.param("def f(*args, **kwargs): pass", id="stars of Python"),
        pytest.param("*.py,*.md and a* b*", id="file patterns"),
        pytest.param("snake_case_name, __init__, _private", id="names with underscores"),
        pytest.param("*姓名：张三，*电话", id="stars of a form"),
        pytest.param("填写__和__之间，____ and ____.", id="blanks to fill in"),
        pytest.param("arr[i](x) and m[0][1]", id="indices and calls"),
        pytest.param("np.array([[x, y]]), [[1, 2], [3, 4]]", id="nested lists"),
        pytest.param("if [[ -f x ]]; then", id="a test of the shell"),
        pytest.param("for b in [b]: a[i]", id="tags that are never closed"),
        pytest.param("```\n# comment\n**x**\n```", id="fenced code"),
        pytest.param("~~~\n[a](b)", id="a fence that is never closed"),
        pytest.param("`**x**` and ``a ` _b_``", id="inline code"),
        pytest.param("[code]**x**[/code]", id="code of BBCode"),
        pytest.param(r"$a_{1}*b*_{2}$ \(_x_\) $$ *y* $$", id="formulas"),
        pytest.param(r"\begin{align}{x}_{i} + {y}_{j}\end{align}", id="an environment of LaTeX"),
        pytest.param("http://x.y/_a_/__b__", id="an address"),
        pytest.param("* one\n- two\n> three\n---\n1. four", id="lists, quotations and rules"),
        pytest.param("a | b\nc | d", id="bars without a table's rule"),
        pytest.param("C# and F# and #tag", id="hashes"),
        pytest.param("5 * 6 * 7, ~5 ~~ 6", id="marks with spaces on both sides"),
    ],
)
def test_what_is_no_markup_stays(text: str) -> None:
    assert remove_markup(text) == (text, 0)


def test_private_use_characters_of_the_text_are_not_taken_for_hidden_code() -> None:
    text = "\U000f0000 **a** `b` \U000f0001"
    assert remove_markup(text) == ("\U000f0000 a `b` \U000f0001", 1)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "part",
    [
        "*a ",
        " *a",
        "_a ",
        "**a\n",
        "~~a ",
        "[",
        "[a](",
        "![",
        "[[a",
        "[b]",
        "`",
        "```\n",
        "$a",
        "# ",
        "\\(",
        "http://*",
        "\\begin{a}",
        "[code]",
    ],
)
def test_a_hostile_text_is_read_in_reasonable_time(part: str) -> None:
    """Quadratic scanning would need hours for this."""
    remove_markup(part * (500_000 // len(part)))
