"""The charts of a report as files: values as CSV, and pictures as SVG and PNG, drawn by a browser without a window.

The browser opens the report itself and makes the pictures in the same way as its buttons do. A browser is what
plotly's own exporter starts too; here no further package is needed for that, and nothing is fetched.
"""

from __future__ import annotations

import base64
import html
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from wattwerk import export
from wattwerk.bench.report import render_report, shown_records
from wattwerk.bench.report.figures import sections
from wattwerk.bench.report.published import ipa_study
from wattwerk.bench.report.values import csv_of, file_name, table_of
from wattwerk.errors import ConfigError, UnavailableError
from wattwerk.records import Record

_NAMES: Final = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "microsoft-edge",
    "msedge",
)
#: where browsers are that are not on the path
_PLACES: Final = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
)
_OPTIONS: Final = (
    "--headless", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-quic", "--hide-scrollbars", "--window-size=1000,900", "--virtual-time-budget=600000",
)  # fmt: skip
_TIMEOUT_S: Final = 600
_PICTURE: Final = re.compile(
    r'<script type="text/plain" class="picture" data-file="([\w.-]+)">data:image/[\w+]+(;base64)?[^,]*,([^<]*)</script>'
)


def write_figures(
    records: Sequence[Record], folder: Path, *, default: Record | None = None, with_study: bool = False
) -> list[Path]:
    """Write every chart of a report as CSV, SVG and PNG; the texts are in the current language.

    Args:
        records: As for ``write_report``.
        folder: Where the files go; it is made where it is missing. Files of the same names are replaced.
        default: As for ``write_report``.
        with_study: As for ``write_report``.

    Returns:
        The files, in the order of the charts.

    Raises:
        ConfigError: There is nothing to draw, or the folder cannot be written.
        UnavailableError: There is no browser, or it fails; the CSV files are written all the same.
    """
    text = render_report(records, default=default, with_study=with_study)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot create the folder {folder} ({error.strerror})", "name one you may write") from error
    tables = values(records, default=default, with_study=with_study)
    for name, table in tables.items():
        export.write(table.encode(), folder / f"{name}.csv")
    for name, picture in _drawn(text, 2 * len(tables)).items():
        export.write(picture, folder / name)
    return [folder / f"{name}.{form}" for name in tables for form in ("csv", "svg", "png")]


def values(records: Sequence[Record], *, default: Record | None = None, with_study: bool = False) -> dict[str, str]:
    """Return the name of each chart's files -> its values as CSV, in the order of the charts."""
    shown = sections(shown_records(records), default=default, published=ipa_study() if with_study else ())
    charts = [(section, chart) for section in shown for chart in section.charts]
    return {
        file_name(section, chart, number): csv_of(table_of(chart.spec))
        for number, (section, chart) in enumerate(charts, 1)
    }


def find_browser() -> str | None:
    """Return the browser to draw with: that of the environment variable WATTWERK_BROWSER, or one that is installed."""
    asked = os.environ.get("WATTWERK_BROWSER")
    names = (asked,) if asked else (*_NAMES, *_PLACES)
    return next((found for name in names if (found := shutil.which(name))), None)


def _drawn(text: str, count: int) -> dict[str, bytes]:
    """Return the name of each picture -> its content, as the browser makes them from a report."""
    browser = find_browser()
    if browser is None:
        remedy = "install Chromium, Chrome or Edge, or name one in WATTWERK_BROWSER; the CSV files are written"
        raise UnavailableError("no browser to draw SVG and PNG with was found", remedy)
    with tempfile.TemporaryDirectory(prefix="wattwerk-", ignore_cleanup_errors=True) as folder:
        page = Path(folder) / "report.html"
        page.write_text(text, encoding="utf-8")
        shown = _opened(browser, f"{page.as_uri()}#pictures", Path(folder) / "profile")
    found = {match[1]: _unpacked(match[3], bool(match[2])) for match in _PICTURE.finditer(shown)}
    if len(found) != count:
        raise UnavailableError(
            f"{browser} drew {len(found)} of {count} pictures", "try a newer browser by WATTWERK_BROWSER"
        )
    return found


def _opened(browser: str, address: str, profile: Path) -> str:
    """Return the page as the browser has it at the end."""
    root = sys.platform != "win32" and os.geteuid() == 0  # the sandbox does not work for it
    options = [*_OPTIONS, f"--user-data-dir={profile}", *(["--no-sandbox"] if root else [])]
    try:
        done = subprocess.run(
            [browser, *options, "--dump-dom", address], capture_output=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(
            f"{browser} does not draw ({error})", "name another browser in WATTWERK_BROWSER"
        ) from error
    return done.stdout.decode("utf-8", "replace")


def _unpacked(data: str, packed: bool) -> bytes:
    return base64.b64decode(data) if packed else urllib.parse.unquote(html.unescape(data)).encode()
