"""The page: whole, escaped, and of colours that can be read. What a browser makes of it: tests/integration/reports."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from finetune_trainer.data.report import html, render_html
from tests.builders.data_reports import (
    HOSTILE_TEXT,
    make_data_report,
    make_eventful_report,
    make_hostile_report,
    make_refused_report,
)

STYLE = (Path(html.__file__).parent / "page.css").read_text()
_VOID = {"meta", "link", "img", "base", "br", "hr", "input"}


class Elements(HTMLParser):
    """All elements with their attributes, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_well_formed_and_of_known_elements_whatever_the_data_hold() -> None:
    plain, hostile = (
        Elements(render_html(report, title))
        for report, title in ((make_eventful_report(), "bot"), (make_hostile_report(), HOSTILE_TEXT))
    )
    assert plain.open == hostile.open == []
    assert {tag for tag, _ in hostile.elements} <= {tag for tag, _ in plain.elements}
    assert not {"script", "img", "base", "iframe", "object"} & {tag for tag, _ in hostile.elements}
    assert '<script>document.title = "attacked"</script>' in hostile.text
    assert "{{ 7 * 7 }}" in hostile.text


def test_nothing_is_fetched_run_or_styled_from_elsewhere() -> None:
    for tag, attributes in Elements(render_html(make_eventful_report(), "bot")).elements:
        assert not {name for name in attributes if name.startswith("on") or name in ("style", "src")}
        assert attributes.get("href") in (None, "data:,"), tag


def test_the_policy_allows_this_style_sheet_and_nothing_else() -> None:
    page = render_html(make_data_report(), "bot")
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    policy = next(
        attributes["content"]
        for tag, attributes in Elements(page).elements
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    )


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("10,184", id="rows used"),
        pytest.param("read as GB18030", id="how a file was read"),
        pytest.param("Recognised as Classification: columns text and label", id="why a format was chosen"),
        pytest.param("turn 3 has role &#39;agent&#39;", id="why a row was left out"),
        pytest.param("s3://support/exports/returns.csv.gz row 19", id="where it stands"),
        pytest.param("and 23 more", id="that there are more than those shown"),
        pytest.param("E-mail addresses replaced by [EMAIL]", id="what was redacted"),
        pytest.param("similarity from 0.85 on", id="how duplicates were found"),
        pytest.param("s3://support/test.jsonl line 12", id="what leaked"),
        pytest.param("退换货", id="a class"),
        pytest.param("p95 240", id="percentiles"),
        pytest.param("295 steps an epoch", id="steps"),
        pytest.param("66 % padding", id="padding"),
        pytest.param("<mark>好的，地址已经改好了。&lt;|im_end|&gt;</mark>", id="learned tokens"),
        pytest.param("2 things worth a look", id="warnings"),
    ],
)
def test_the_page_tells(text: str) -> None:
    assert text in render_html(make_eventful_report(), "support-bot")


def test_what_did_not_happen_has_no_section() -> None:
    page = render_html(make_data_report(), "bot")
    assert "Nothing: every row that was read is used." in page
    for heading in (
        "What was changed",
        "What repeats",
        "classes are balanced",
        "for this run",
        "worth a look",
    ):
        assert heading not in page


def test_refused_data_say_so_first() -> None:
    page = render_html(make_refused_report(), "bot")
    assert page.index("These data are not trained on") < page.index("Rows used")
    assert "not JSON (NaN is not a JSON value)" in page
    assert "What the model sees" not in page


def test_invalid_rows_are_shown_open_and_the_rest_folded() -> None:
    page = render_html(make_eventful_report(), "bot")
    assert page.count('<details class="reason" open>') == 1
    assert re.search(r'<details class="reason" open>\s*<summary>\s*<span class="name">Invalid', page)


# --- colours ---------------------------------------------------------------------------------------------------


def colours(scheme: str) -> dict[str, str]:
    """The style sheet's colours, light or dark."""
    blocks = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
    assert len(blocks) == 2
    light, dark = (dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", block)) for block in blocks)
    return light if scheme == "light" else {**light, **dark}


def luminance(colour: str) -> float:
    """Relative luminance: https://www.w3.org/TR/WCAG22/#dfn-relative-luminance."""
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [
        channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4 for channel in channels
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("text", "ground"),
    [
        ("text", "page"),
        ("text", "card"),
        ("quiet", "page"),
        ("quiet", "card"),
        ("accent", "page"),
        ("accent-text", "accent-soft"),
        ("warning-text", "warning"),
        ("refusal-text", "refusal"),
    ],
)
def test_text_stands_out_from_its_ground(scheme: str, text: str, ground: str) -> None:
    found = colours(scheme)
    darker, lighter = sorted((luminance(found[text]), luminance(found[ground])))
    # Level AA of WCAG for text of any size.
    assert (lighter + 0.05) / (darker + 0.05) >= 4.5


def test_dark_replaces_every_colour() -> None:
    light, dark = (set(re.findall(r"--([a-z-]+): #", block)) for block in STYLE.split("@media", 2)[:2])
    assert light == dark
