"""The data report in a real browser: no errors, nothing fetched, readable on a telephone, harmless whatever rows hold."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page

from finetune_trainer.data.report import DataReport, render_html
from tests.builders.data_reports import (
    make_data_report,
    make_eventful_report,
    make_hostile_report,
    make_refused_report,
)
from tests.builders.model_folders import write_tokenizer_folder
from tests.integration.reports.conftest import Reader

QUICKSTART = Path(__file__).parents[3] / "examples/quickstart/data/train.jsonl"
REPORTS: dict[str, Callable[[], DataReport]] = {
    "plain": make_data_report,
    "eventful": make_eventful_report,
    "hostile": make_hostile_report,
    "refused": make_refused_report,
}


def write_page(folder: Path, kind: str = "eventful", title: str = "support-bot") -> Path:
    path = folder / "data-report.html"
    path.write_text(render_html(REPORTS[kind](), title), encoding="utf-8")
    return path


def is_wider_than_its_window(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth > window.innerWidth"))


@pytest.fixture(scope="module")
def quickstart_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the quickstart's own data, prepared by the trainer's code."""
    folder = tmp_path_factory.mktemp("quickstart")
    page = folder / "data-report.html"
    model = write_tokenizer_folder(folder / "model")
    arguments = [QUICKSTART, "--model", model, "--html", page]
    subprocess.run(
        [sys.executable, "-m", "finetune_trainer.preview", *map(str, arguments)],
        check=True,
        capture_output=True,
        timeout=120,
    )
    return page


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_of_the_quickstarts_data_opens_without_errors(
    reader: Reader, quickstart_page: Path, width: int
) -> None:
    page, watch = reader.open(quickstart_page, width)
    assert watch.complaints == []
    assert watch.requests == [quickstart_page.as_uri()]
    assert not is_wider_than_its_window(page)
    assert page.get_by_text("Prepared 896 of 896 rows").is_visible()
    assert page.locator("article.sample mark").first.inner_text() == "change_address<|im_end|>"


@pytest.mark.parametrize("kind", list(REPORTS))
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_opens_without_errors_requests_or_sideways_scrolling(
    reader: Reader, tmp_path: Path, kind: str, width: int, scheme: str
) -> None:
    path = write_page(tmp_path, kind)
    page, watch = reader.open(path, width, scheme)
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
    assert watch.complaints == []
    assert watch.requests == [path.as_uri()]
    assert page.title() == "support-bot · data report"
    assert not is_wider_than_its_window(page)


def test_the_style_sheet_is_applied_and_follows_the_scheme(reader: Reader, tmp_path: Path) -> None:
    grounds = set()
    for scheme in ("light", "dark"):
        page, _ = reader.open(write_page(tmp_path), scheme=scheme)
        grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert grounds == {"rgb(250, 249, 247)", "rgb(22, 23, 22)"}


def test_it_is_read_without_scripts_and_examples_unfold(reader: Reader, tmp_path: Path) -> None:
    page, _ = reader.open(write_page(tmp_path), scripts=False)
    assert page.get_by_role("heading", name="support-bot", exact=True).is_visible()
    too_long = page.locator("details", has_text="Too long")
    excerpt = too_long.locator("blockquote", has_text="the blue kettle").first
    assert not excerpt.is_visible()
    too_long.locator("summary").click()
    assert excerpt.is_visible()


def test_learned_tokens_stand_out_from_the_others(reader: Reader, tmp_path: Path) -> None:
    page, _ = reader.open(write_page(tmp_path))
    learned = page.locator("mark", has_text="The link works for 30 minutes.")
    grounds = learned.evaluate(
        "mark => [getComputedStyle(mark).backgroundColor, getComputedStyle(mark.parentElement).backgroundColor]"
    )
    assert grounds[0] != grounds[1]
    assert page.locator("mark").all_inner_texts()[0] == "好的，地址已经改好了。<|im_end|>"


def test_a_row_with_markup_is_shown_as_the_text_it_is(reader: Reader, tmp_path: Path) -> None:
    page, watch = reader.open(write_page(tmp_path, "hostile"))
    assert page.locator("script, img, base, iframe").count() == 0
    assert '<script>document.title = "attacked"</script>' in page.locator("pre").inner_text()
    assert watch.requests == [page.url]


def test_the_picture_has_a_bar_for_every_bucket_within_its_frame(reader: Reader, tmp_path: Path) -> None:
    page, _ = reader.open(write_page(tmp_path), 400)
    frame = page.locator(".histogram svg").bounding_box()
    bars = [bar.bounding_box() for bar in page.locator(".histogram rect").all()]
    assert len(bars) == len(make_eventful_report().lengths.histogram)
    assert frame is not None
    for bar in bars:
        assert bar is not None
        assert frame["x"] <= bar["x"]
        assert bar["x"] + bar["width"] <= frame["x"] + frame["width"] + 1
        assert bar["y"] + bar["height"] <= frame["y"] + frame["height"] + 1


def test_the_ticks_stand_on_one_line_below_the_places_they_name(reader: Reader, tmp_path: Path) -> None:
    page, _ = reader.open(write_page(tmp_path), 400)
    frame = page.locator(".histogram svg").bounding_box()
    ticks = [tick.bounding_box() for tick in page.locator(".ticks span").all()]
    assert frame is not None
    for number, tick in enumerate(ticks):
        assert tick is not None
        assert tick["height"] < 30
        assert tick["x"] - frame["x"] == pytest.approx(frame["width"] * number / 4, abs=1)
