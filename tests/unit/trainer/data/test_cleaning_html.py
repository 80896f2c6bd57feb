"""HTML goes, and what only looks like it stays."""

from __future__ import annotations

import pytest

from finetune_trainer.data.cleaning.html_text import remove_html


@pytest.mark.parametrize(
    ("text", "expected", "occurrences"),
    [
        pytest.param("<p>Hello <b>World</b></p>", "Hello World", 4, id="tags"),
        pytest.param("Hello<b>world</b>!", "Helloworld!", 2, id="inline tags leave no space"),
        pytest.param("one<br>two<br/>three<BR />four", "one\ntwo\nthree\nfour", 3, id="line breaks"),
        pytest.param("<p>one</p>\n  <p>two</p>", "one\n\ntwo", 4, id="paragraphs"),
        pytest.param("<ul><li>a</li><li>b</li></ul>", "a\nb", 6, id="a list"),
        pytest.param(
            "<table><tr><td>a</td><td>b</td></tr><tr><td>c</td><td>d</td></tr></table>",
            "a\tb\nc\td",
            14,
            id="a table: tabs and lines",
        ),
        pytest.param(
            'see <a href="http://x.y/?a=1&b=2" target=_blank>this</a>', "see this", 2, id="attributes"
        ),
        pytest.param("<a href = 'x' >t</a>", "t", 2, id="spaces around the equals sign"),
        pytest.param("<input disabled>x", "x", 1, id="an attribute without a value"),
        pytest.param("a<!-- no\nno -->b", "ab", 1, id="a comment"),
        pytest.param("<!DOCTYPE html><p>x</p>", "x", 3, id="a document type"),
        pytest.param("<script>if (1 < 2) { x('</p>') }</script>Hi", "Hi", 1, id="a script with its content"),
        pytest.param("<STYLE type='a'>p {}</STYLE>Hi", "Hi", 1, id="a style with its content"),
        pytest.param("<svg viewBox='0'><path d='M'/></svg>Hi", "Hi", 1, id="a drawing"),
        pytest.param("Tom &amp; Jerry &lt;3 &#20320; &#x597d;", "Tom & Jerry <3 你 好", 4, id="references"),
        pytest.param("a&nbsp;b", "a b", 1, id="a no-break space becomes a space"),
        pytest.param("first line\n\n<b>x</b>\n", "first line\n\nx\n", 2, id="the text's own lines stay"),
        pytest.param("old page.<p>Next", "old page.\n\nNext", 1, id="a paragraph that is never closed"),
        pytest.param(
            'cut <span class="x">here', "cut here", 1, id="attributes prove a tag that is never closed"
        ),
    ],
)
def test_html_goes(text: str, expected: str, occurrences: int) -> None:
    assert remove_html(text) == (expected, occurrences)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a < b and c > d", id="comparisons"),
        pytest.param("if a<b and c>d: pass", id="comparisons without spaces"),
        pytest.param("List<int> x = new Map<String, List<a>>();", id="generics"),
        pytest.param("vector<b> y; Promise<object>", id="generics named like elements"),
        pytest.param("cp <source> <target>, see <name>", id="words in brackets"),
        pytest.param("#include <map>\n#include <time.h>", id="headers of C"),
        pytest.param("<Button onClick={go}><Link to='/x'/></Button>", id="components of JSX"),
        pytest.param("<Foo>x</Foo> <my-tag>y</my-tag>", id="XML"),
        pytest.param("http://x.y/?a=1&copy=2&lt=3", id="parameters of an address"),
        pytest.param("&notit; &unknown; AT&T; R&D", id="what is no reference"),
        pytest.param("write `<br>` or ``<b>x</b>``", id="code in backticks"),
        pytest.param("```html\n<p>x &amp; y</p>\n```", id="fenced code"),
        pytest.param("<!-- never closed", id="a comment without an end"),
        pytest.param("the <script> element", id="an element that is talked about"),
        pytest.param("i <3 u", id="a heart"),
    ],
)
def test_what_is_no_html_stays(text: str) -> None:
    assert remove_html(text) == (text, 0)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("part", ["<a ", "<!--", "<script>", "&amp", '<a x="', "<p", "</script", "<b>", "`"])
def test_a_hostile_text_is_read_in_reasonable_time(part: str) -> None:
    """Quadratic scanning would need hours for this."""
    remove_html(part * (1_000_000 // len(part)))
