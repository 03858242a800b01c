"""The page in a real browser: nothing asked of the network, no barrier, no cut or overlapping text, files of charts."""

from __future__ import annotations

import csv
import importlib.resources
import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.bench.samples import laptop_sweep, troubled_sweep

from wattwerk.bench.report import pictures, write_report
from wattwerk.errors import UnavailableError
from wattwerk.language import LANGUAGES, speaking

pdfium = pytest.importorskip("pypdfium2")
sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = pictures.find_browser()
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no browser is installed, so the page cannot be opened")

_OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-quic"]
_TITLES = {"en": "All records", "de": "Alle Messungen"}
#: texts of charts that are cut off by their picture, or that stand over one another by more than a point
_COLLISIONS = """() => [...document.querySelectorAll('.chart')].flatMap((chart) => {
  const frame = chart.getBoundingClientRect();
  const texts = [...chart.querySelectorAll('svg text')].filter((each) => each.textContent.trim());
  const boxes = texts.map((each) => [each.textContent, each.getBoundingClientRect()]);
  const title = chart.closest('figure').querySelector('h3').textContent;
  const cut = boxes.filter(([, box]) => box.left < frame.left - 1 || box.right > frame.right + 1)
    .map(([text]) => `${title}: ${text} is cut`);
  const over = boxes.flatMap(([text, a], index) => boxes.slice(index + 1)
    .filter(([, b]) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2
      && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4)
    .map(([other]) => `${title}: ${text} over ${other}`));
  return [...cut, ...over];
})"""


def _records() -> list[Any]:
    """Return records of two machines: modelled, measured, failed and invalid ones, with curves and bars."""
    return [*laptop_sweep(batches=(1, 8)), *troubled_sweep()]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a report in each language."""
    folder = tmp_path_factory.mktemp("reports")
    for language in LANGUAGES:
        with speaking(language):
            write_report(_records(), folder / f"{language}.html")
    return {language: folder / f"{language}.html" for language in LANGUAGES}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A running browser."""
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=_OPTIONS)
        yield running
        running.close()


def _opened(browser: Any, path: Path, width: int = 1280, scheme: str = "light") -> tuple[Any, list[str]]:
    """Return the page with all charts drawn, and what it asked for or complained of meanwhile."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme, accept_downloads=True)
    heard: list[str] = []
    page.on("request", lambda request: heard.append(request.url))
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_selector('html[data-charts="drawn"]', timeout=120_000)
    return page, heard


def _specs(page: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(page.inner_text("#specs") or page.text_content("#specs"))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("language", sorted(LANGUAGES))
def test_no_barrier_and_no_request(browser, reports, language):
    """With its content there, axe finds no violation in either theme; the page asks for nothing but itself."""
    page, heard = _opened(browser, reports[language])
    assert page.inner_text("#records-title") == _TITLES[language]
    assert page.locator(".chart .main-svg").count() >= len(_specs(page)) > 10
    assert page.locator("#records-table tbody tr").count() == len(_records())
    assert [each for each in heard if not each.startswith(("file:", "data:", "blob:"))] == []
    page.evaluate(importlib.resources.files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8"))
    # the themes differ in colours alone, the languages in words
    structure = "{rules: {'color-contrast': {enabled: false}}}"
    colours = "{runOnly: ['cat.color']}"
    checks = {"de": [("light", structure, 20)], "en": [("light", "{}", 20), ("dark", colours, 1)]}
    for scheme, rules, least in checks[language]:
        page.emulate_media(color_scheme=scheme)
        page.wait_for_timeout(1000)  # the charts are drawn again in the theme's colours
        found = page.evaluate(f"axe.run(document, {rules})")
        assert len(found["passes"]) >= least
        told = [(each["id"], [node["html"][:200] for node in each["nodes"]]) for each in found["violations"]]
        assert told == [], scheme
    page.close()


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("language", sorted(LANGUAGES))
def test_no_text_is_cut_or_stands_over_another(browser, reports, language, width):
    """On a screen and on a phone the page is no wider than the window, and the texts of charts stay apart."""
    page, _ = _opened(browser, reports[language], width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".chart svg text").count() > 100
    assert page.evaluate(_COLLISIONS) == []
    page.close()


@pytest.mark.slow
def test_charts_become_files_by_the_keyboard(browser, reports):
    """Each chart's buttons are reached by Tab, and Enter gives its values with units, its picture as SVG and PNG."""
    page, _ = _opened(browser, reports["de"])
    spec = _specs(page)[0]
    page.locator(".downloads button").first.focus()
    contents = {}
    for form in ("png", "svg", "csv"):
        assert page.evaluate("document.activeElement.dataset.form") == form
        with page.expect_download() as told:
            page.keyboard.press("Enter")
        assert told.value.suggested_filename == f"{spec['file']}.{form}"
        contents[form] = Path(told.value.path()).read_bytes()
        page.keyboard.press("Tab")
    assert contents["png"].startswith(b"\x89PNG")
    assert b"<svg" in contents["svg"]
    rows = list(csv.reader(io.StringIO(contents["csv"].decode())))
    assert rows[0] == spec["table"]["head"]
    assert "Latenz einer Iteration (ms)" in rows[0]
    column = rows[0].index("Latenz einer Iteration (ms)")
    drawn = [float(row[column]) for row in rows[1:]]
    assert drawn == spec["data"][0]["x"]
    page.close()


def _drawn(page: Any) -> list[int]:
    """Return the numbers of the charts that are drawn."""
    found: list[int] = page.evaluate(
        "[...document.querySelectorAll('.chart')].filter((each) => each.querySelector('.main-svg'))"
        ".map((each) => Number(each.dataset.spec))"
    )
    return found


@pytest.mark.slow
def test_what_is_near_is_drawn_first_and_paper_gets_everything(browser, reports):
    """While the browser has no time only charts near the screen are drawn; printed, all are there, without a button."""
    page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="dark")
    page.add_init_script("window.requestIdleCallback = () => 0")  # a browser that is never idle
    page.goto(f"{reports['de'].as_uri()}#energy")
    page.wait_for_selector("#energy .main-svg")
    page.wait_for_timeout(500)
    specs, early = _specs(page), _drawn(page)
    assert 0 < len(early) < len(specs) / 2  # some of the first ones may be among them: the page begins at its top
    assert page.evaluate("document.documentElement.dataset.charts") == "waiting"
    pages = [each.get_textpage().get_text_bounded() for each in pdfium.PdfDocument(page.pdf(format="A4"))]
    assert _drawn(page) == list(range(len(specs)))
    assert page.evaluate("document.documentElement.dataset.charts") == "drawn"
    words = " ".join("".join(pages).split())
    for title in {spec["layout"]["xaxis"]["title"]["text"] for spec in specs}:
        charts = sum(spec["layout"]["xaxis"]["title"]["text"] == title for spec in specs)
        assert words.count(title) >= charts, title
    assert not re.search(r"\b(PNG|SVG|CSV|JSON)\b", words)
    table = pages[next(index for index, text in enumerate(pages) if "Alle Messungen" in text) :]
    rows = [text for text in table if "office" in text or "h200" in text]
    assert len(rows) > 1
    assert all("Durchsatz" in text and "p99" in text for text in rows)
    page.close()


@pytest.mark.slow
def test_plotly_has_the_room_it_needs(browser, reports):
    """Margins begin with what labels and titles take, so that hardly a chart is laid out twice."""
    page, _ = _opened(browser, reports["de"])
    sides = page.evaluate(
        "[...document.querySelectorAll('.chart')].map(({ _fullLayout: { _size: size, margin } }) =>"
        " [size.l - margin.l, size.b - margin.b, size.l])"
    )
    assert len(sides) == len(_specs(page))
    assert sum(left > 0.5 or below > 0.5 for left, below, _ in sides) <= 0.1 * len(sides)
    assert max(left for *_, left in sides) < 130
    assert page.evaluate("getComputedStyle(document.querySelector('.table')).contentVisibility") == "visible"
    page.close()


@pytest.mark.slow
def test_all_charts_become_files(tmp_path):
    """Each chart is written as CSV, SVG and PNG, with its title and without an empty one."""
    records = laptop_sweep(batches=(1, 8))
    with speaking("de"):
        files = pictures.write_figures(records, tmp_path / "figures")
        tables = pictures.values(records)
    assert len(files) == 3 * len(tables) > 15
    assert sorted(tmp_path.joinpath("figures").iterdir()) == sorted(files)
    for file in files:
        content = file.read_bytes()
        if file.suffix == ".png":
            assert content.startswith(b"\x89PNG")
            assert len(content) > 10_000
        elif file.suffix == ".svg":
            assert "mobilenet-v2" in content.decode()
        else:
            assert content.decode() == tables[file.stem]
    throughput = next(text for name, text in tables.items() if "durchsatz" in name)
    assert re.search(r"^onnxruntime fp32,8,\d+\.\d+,", throughput, re.MULTILINE)


def test_without_a_browser_the_values_are_written_and_the_remedy_told(tmp_path, monkeypatch):
    """A browser that does not exist is told of with a remedy, and the CSV files are there."""
    monkeypatch.setenv("WATTWERK_BROWSER", str(tmp_path / "nowhere"))
    with pytest.raises(UnavailableError, match="no browser") as told:
        pictures.write_figures(laptop_sweep(batches=(1,)), tmp_path / "figures")
    assert "WATTWERK_BROWSER" in str(told.value.remedy)
    assert len(list(tmp_path.joinpath("figures").glob("*.csv"))) > 4
    assert shutil.which(str(tmp_path / "nowhere")) is None
